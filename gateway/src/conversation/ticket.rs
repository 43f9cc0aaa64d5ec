//! Resume tickets: by one, a device that has been signed in signs in again, at any gateway, without the exchange or the signature that
//! its credential costs.
//!
//! A ticket proves no more than the credential did, and for no longer: the directory is asked as at every sign-in, so that a changed
//! password, a revoked token or a deleted account ends it, too. Nothing is stored; whoever has the gateways' secret can open it.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 | version, 1 |
//! | 1 to 4 | id of the key |
//! | 5 to 36 | HMAC-SHA-256 of the version, the id and the contents |
//! | from 37 | [`Contents`], as protobuf |

use bytes::Bytes;
use carillon_proto::{DeviceId, UserId, credentials::hmac, limits::MAX_TICKET_BYTES, peer::PeerSecurity};
use prost::Message;
use subtle::ConstantTimeEq as _;

use super::{Proof, token::KeyId};

const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const HEAD_BYTES: usize = 1 + KEY_ID_BYTES;
const MAC_BYTES: usize = 32;

/// The contents of a resume ticket.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    pub(super) user: UserId,
    pub(super) device: DeviceId,
    /// Of the credential with which the user signed in at first.
    pub(super) proof: Proof,
    /// When that credential expires, if it does; in milliseconds since 1970, as all times here.
    pub(super) credential_expires_ms: Option<u64>,
    /// When the ticket expires: not after the credential.
    pub(super) expires_ms: u64,
}

/// Why a ticket is not taken. The client may give its credential instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TicketError {
    #[error("sign-in by ticket is off")]
    Off,
    /// Of another service, of a newer release, or older than the secrets in use.
    #[error("ticket was not sealed with a key that is in use")]
    UnknownKey,
    #[error("ticket is not valid")]
    Forged,
    #[error("ticket has expired")]
    Expired,
    #[error("ticket is for another device")]
    OtherDevice,
    #[error("ticket is for another user than the one named in the sign-in")]
    OtherUser,
    #[error("ticket stands for a credential of a kind that is not taken any more")]
    CredentialOff,
}

impl TicketError {
    /// True if it may come from guessing. A key that is not known is none: such tickets come from every client after the secret was
    /// replaced, and nobody gets in by one.
    pub(super) fn is_a_guess(self) -> bool {
        match self {
            Self::Forged => true,
            Self::Off
            | Self::UnknownKey
            | Self::Expired
            | Self::OtherDevice
            | Self::OtherUser
            | Self::CredentialOff => false,
        }
    }
}

/// The keys that seal and open tickets; the default has none, and gives no tickets.
#[derive(Default)]
pub(crate) struct TicketKeys(Vec<TicketKey>);

struct TicketKey {
    id: [u8; KEY_ID_BYTES],
    secret: [u8; 32],
}

/// The encoding. Numbers are never used again; another version may mean others.
#[derive(Clone, PartialEq, Message)]
struct Contents {
    #[prost(string, tag = "1")]
    user: String,
    #[prost(string, tag = "2")]
    device: String,
    #[prost(uint64, tag = "3")]
    expires_ms: u64,
    /// 0: the credential does not expire.
    #[prost(uint64, tag = "4")]
    credential_expires_ms: u64,
    /// The credential was a password, of this generation of the account.
    #[prost(uint64, optional, tag = "5")]
    password_generation: Option<u64>,
    /// Otherwise it was this token.
    #[prost(string, optional, tag = "6")]
    token_id: Option<String>,
    #[prost(uint64, tag = "7")]
    token_issued_ms: u64,
    /// The key that had signed the token.
    #[prost(bytes = "vec", tag = "8")]
    token_key: Vec<u8>,
}

impl TicketKeys {
    /// The keys of all gateways of the cluster: one for each secret that is in use.
    pub(crate) fn of(security: &PeerSecurity) -> Self {
        Self::new(security.derive_keys("gateway: resume tickets 1"))
    }

    /// The first one seals, all open.
    pub(crate) fn new(secrets: impl IntoIterator<Item = [u8; 32]>) -> Self {
        let key = |secret: [u8; 32]| {
            let [a, b, c, d, ..] = hmac(&secret, b"id");
            TicketKey { id: [a, b, c, d], secret }
        };
        Self(secrets.into_iter().map(key).collect())
    }

    /// Empty without a key.
    pub(super) fn seal(&self, ticket: &Ticket) -> Bytes {
        let Some(key) = self.0.first() else { return Bytes::new() };
        let head = [&[VERSION][..], &key.id].concat();
        let contents = Contents::from(ticket).encode_to_vec();
        let mac = hmac(&key.secret, &[&*head, &contents].concat());
        [&*head, &mac, &contents].concat().into()
    }

    pub(super) fn open(&self, sealed: &[u8], now_ms: u64) -> Result<Ticket, TicketError> {
        if self.0.is_empty() {
            return Err(TicketError::Off);
        }
        if sealed.len() > MAX_TICKET_BYTES {
            return Err(TicketError::UnknownKey);
        }
        let (head, rest) = sealed.split_at_checked(HEAD_BYTES).ok_or(TicketError::UnknownKey)?;
        let key = self.0.iter().find(|key| head[0] == VERSION && head[1..] == key.id);
        let key = key.ok_or(TicketError::UnknownKey)?;
        let (mac, contents) = rest.split_at_checked(MAC_BYTES).ok_or(TicketError::Forged)?;
        let right: bool = hmac(&key.secret, &[head, contents].concat()).ct_eq(mac).into();
        if !right {
            return Err(TicketError::Forged);
        }
        // Contents that were sealed here can be read here, unless a release of this version has other rules for names.
        let contents = Contents::decode(contents).map_err(|_| TicketError::UnknownKey)?;
        let ticket = Ticket::try_from(contents)?;
        if ticket.expires_ms <= now_ms { Err(TicketError::Expired) } else { Ok(ticket) }
    }
}

impl Ticket {
    /// Whether it is for this device. `named`: the user of the sign-in frame, may be empty.
    pub(super) fn check(&self, named: &str, device: &DeviceId) -> Result<(), TicketError> {
        if !named.is_empty() && named != self.user.as_str() {
            return Err(TicketError::OtherUser);
        }
        if self.device != *device { Err(TicketError::OtherDevice) } else { Ok(()) }
    }
}

impl From<&Ticket> for Contents {
    fn from(ticket: &Ticket) -> Self {
        let contents = Self {
            user: ticket.user.as_str().to_owned(),
            device: ticket.device.as_str().to_owned(),
            expires_ms: ticket.expires_ms,
            credential_expires_ms: ticket.credential_expires_ms.unwrap_or(0),
            ..Self::default()
        };
        match &ticket.proof {
            Proof::Password { generation } => Self { password_generation: Some(*generation), ..contents },
            Proof::Token { id, issued_ms, key } => {
                Self { token_id: id.clone(), token_issued_ms: *issued_ms, token_key: key.0.to_vec(), ..contents }
            }
        }
    }
}

impl TryFrom<Contents> for Ticket {
    type Error = TicketError;

    fn try_from(contents: Contents) -> Result<Self, TicketError> {
        let unknown = TicketError::UnknownKey;
        let proof = match contents.password_generation {
            Some(generation) => Proof::Password { generation },
            None => {
                let key = KeyId(contents.token_key.try_into().map_err(|_| unknown)?);
                Proof::Token { id: contents.token_id, issued_ms: contents.token_issued_ms, key }
            }
        };
        Ok(Self {
            user: UserId::new(&contents.user).map_err(|_| unknown)?,
            device: DeviceId::new(&contents.device).map_err(|_| unknown)?,
            proof,
            credential_expires_ms: Some(contents.credential_expires_ms).filter(|at| *at != 0),
            expires_ms: contents.expires_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use carillon_proto::limits::{MAX_DEVICE_BYTES, MAX_OWNER_BYTES};
    use proptest::prelude::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn proof() -> impl Strategy<Value = Proof> {
        let token = ("[!-~]{1,128}", any::<bool>(), any::<u64>(), any::<[u8; 8]>());
        let token = token.prop_map(|(id, named, issued_ms, key)| Proof::Token {
            id: named.then_some(id),
            issued_ms,
            key: KeyId(key),
        });
        prop_oneof![any::<u64>().prop_map(|generation| Proof::Password { generation }), token]
    }

    prop_compose! {
        fn ticket()(
            user in "[a-z0-9]{1,128}",
            device in "[!-~]{1,64}",
            proof in proof(),
            credential_expires_ms in proptest::option::of(1..u64::MAX),
            expires_ms in NOW_MS + 1..u64::MAX,
        ) -> Ticket {
            let (user, device) = (UserId::new(&user).expect("valid"), DeviceId::new(&device).expect("valid"));
            Ticket { user, device, proof, credential_expires_ms, expires_ms }
        }
    }

    proptest! {
        #[test]
        fn a_ticket_says_after_its_way_what_was_sealed(ticket in ticket()) {
            let keys = TicketKeys::new([[1; 32]]);
            let sealed = keys.seal(&ticket);
            prop_assert!(sealed.len() <= MAX_TICKET_BYTES);
            let opened = keys.open(&sealed, NOW_MS).expect("opens");
            prop_assert_eq!(Contents::from(&opened), Contents::from(&ticket));
        }

        #[test]
        fn a_ticket_of_which_any_byte_is_another_is_refused(ticket in ticket(), at in any::<prop::sample::Index>(), bits in 1u8..) {
            let keys = TicketKeys::new([[1; 32], [2; 32]]);
            let mut sealed = keys.seal(&ticket).to_vec();
            let at = at.index(sealed.len());
            sealed[at] ^= bits;
            let error = keys.open(&sealed, NOW_MS).expect_err("refused");
            let expected = if at < HEAD_BYTES { TicketError::UnknownKey } else { TicketError::Forged };
            prop_assert_eq!(error, expected, "byte {}", at);
        }

        #[test]
        fn a_ticket_of_another_length_is_refused(ticket in ticket(), cut in any::<prop::sample::Index>(), more in 1usize..2000) {
            let keys = TicketKeys::new([[1; 32]]);
            let mut sealed = keys.seal(&ticket).to_vec();
            keys.open(&sealed[..cut.index(sealed.len())], NOW_MS).expect_err("shorter");
            sealed.resize(sealed.len() + more, 0);
            keys.open(&sealed, NOW_MS).expect_err("longer");
        }

        #[test]
        fn other_bytes_are_no_ticket(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            TicketKeys::new([[1; 32]]).open(&bytes, NOW_MS).expect_err("refused");
        }
    }

    fn alice(expires_ms: u64) -> Ticket {
        Ticket {
            user: UserId::new("alice").expect("valid"),
            device: DeviceId::new("phone").expect("valid"),
            proof: Proof::Password { generation: 7 },
            credential_expires_ms: None,
            expires_ms,
        }
    }

    #[test]
    fn a_secret_is_replaced_in_steps_in_which_every_gateway_opens_what_another_one_seals() {
        let [old, new, newer] = [[1; 32], [2; 32], [3; 32]];
        let steps = [vec![old], vec![old, new], vec![new, old], vec![new]].map(TicketKeys::new);
        for (sealing, opening) in [(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)] {
            let sealed = steps[sealing].seal(&alice(NOW_MS + 1));
            let opened = steps[opening].open(&sealed, NOW_MS);
            assert!(opened.is_ok(), "sealed in step {sealing}, opened in step {opening}");
        }
        let sealed = steps[0].seal(&alice(NOW_MS + 1));
        assert_eq!(steps[3].open(&sealed, NOW_MS).err(), Some(TicketError::UnknownKey), "the old secret is out of use");
        let keys = TicketKeys::new([newer]);
        assert_eq!(keys.open(&sealed, NOW_MS).err(), Some(TicketError::UnknownKey), "another service");
    }

    #[test]
    fn a_ticket_counts_until_it_expires_and_for_its_user_and_device_alone() {
        let keys = TicketKeys::new([[1; 32]]);
        let sealed = keys.seal(&alice(NOW_MS + 1));
        let ticket = keys.open(&sealed, NOW_MS).expect("not expired");
        assert_eq!(keys.open(&sealed, NOW_MS + 1).err(), Some(TicketError::Expired));
        let device = |name: &str| DeviceId::new(name).expect("valid");
        assert_eq!(ticket.check("", &device("phone")), Ok(()));
        assert_eq!(ticket.check("alice", &device("phone")), Ok(()));
        assert_eq!(ticket.check("bob", &device("phone")), Err(TicketError::OtherUser));
        assert_eq!(ticket.check("", &device("laptop")), Err(TicketError::OtherDevice));
    }

    #[test]
    fn without_a_key_there_are_no_tickets() {
        let none = TicketKeys::default();
        assert!(none.seal(&alice(NOW_MS + 1)).is_empty());
        let sealed = TicketKeys::new([[1; 32]]).seal(&alice(NOW_MS + 1));
        assert_eq!(none.open(&sealed, NOW_MS).err(), Some(TicketError::Off));
    }

    #[test]
    fn the_longest_names_fit() {
        let ticket = Ticket {
            user: UserId::new(&"a".repeat(MAX_OWNER_BYTES)).expect("valid"),
            device: DeviceId::new(&"d".repeat(MAX_DEVICE_BYTES)).expect("valid"),
            proof: Proof::Token { id: Some("t".repeat(128)), issued_ms: u64::MAX, key: KeyId([255; 8]) },
            credential_expires_ms: Some(u64::MAX),
            expires_ms: u64::MAX,
        };
        assert!(TicketKeys::new([[1; 32]]).seal(&ticket).len() <= MAX_TICKET_BYTES);
    }
}

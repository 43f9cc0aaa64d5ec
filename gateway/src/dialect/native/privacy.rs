//! Asks and tells of what others may see and do, from and to frames.

use carillon_proto::pb::{
    client::{
        Done, Privacy, PrivacyNews, PrivacyRequest, PrivacySettings, ReadPrivacy, SetPrivacy, privacy_news,
        privacy_request::Change, server_frame::Body,
    },
    link::{self, privacy_news::What},
    store,
};

use crate::conversation::{Ask, PrivacyAsk, PrivacyChange, PrivacyQuery, PrivacyTell};

impl From<PrivacyRequest> for Ask {
    fn from(PrivacyRequest { request, change }: PrivacyRequest) -> Self {
        let change = change.map(|change| match change {
            // Audiences have the same numbers.
            Change::Set(SetPrivacy { write, groups, read_marks, presence, last_seen }) => {
                PrivacyChange::Set(store::SetPrivacy { write, groups, read_marks, presence, last_seen })
            }
            Change::Block(user) => PrivacyChange::Block(user),
            Change::Unblock(user) => PrivacyChange::Unblock(user),
        });
        Self::Privacy(Box::new(PrivacyAsk { request, what: PrivacyQuery::Change(change) }))
    }
}

impl From<ReadPrivacy> for Ask {
    fn from(ReadPrivacy { request }: ReadPrivacy) -> Self {
        Self::Privacy(Box::new(PrivacyAsk { request, what: PrivacyQuery::Read }))
    }
}

impl From<PrivacyTell> for Body {
    fn from(told: PrivacyTell) -> Self {
        match told {
            PrivacyTell::Done { request } => Self::Done(Done { request }),
            PrivacyTell::Privacy { request, privacy } => Self::Privacy(told_privacy(request, privacy)),
            PrivacyTell::News(news) => Self::PrivacyNews(told_news(news)),
        }
    }
}

fn told_privacy(request: u32, privacy: store::Privacy) -> Privacy {
    let store::Privacy { version, settings, blocked } = privacy;
    let blocked = blocked.into_iter().map(|who| who.user).collect();
    Privacy { request, version, settings: Some(told_settings(settings.unwrap_or_default())), blocked }
}

fn told_news(link::PrivacyNews { before, version, what }: link::PrivacyNews) -> PrivacyNews {
    let what = what.map(|what| match what {
        What::Settings(settings) => privacy_news::What::Settings(told_settings(settings)),
        What::Blocked(user) => privacy_news::What::Blocked(user),
        What::Unblocked(user) => privacy_news::What::Unblocked(user),
    });
    PrivacyNews { before, version, what }
}

fn told_settings(settings: store::PrivacySettings) -> PrivacySettings {
    let store::PrivacySettings { write, groups, read_marks, presence, last_seen } = settings;
    PrivacySettings { write, groups, read_marks, presence, last_seen }
}

#[cfg(test)]
mod tests {
    use carillon_proto::pb::client::Audience;

    #[test]
    fn audiences_have_the_numbers_that_the_store_knows() {
        for (audience, stored) in [
            (Audience::Unspecified, super::store::Audience::Unspecified),
            (Audience::Everyone, super::store::Audience::Everyone),
            (Audience::Contacts, super::store::Audience::Contacts),
            (Audience::Nobody, super::store::Audience::Nobody),
            (Audience::Requests, super::store::Audience::Requests),
        ] {
            assert_eq!(i32::from(audience), i32::from(stored));
        }
        assert!(Audience::try_from(5).is_err());
    }
}

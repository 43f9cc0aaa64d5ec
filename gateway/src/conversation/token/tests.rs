//! Tokens as their makers make them, and nearly so.

use std::fs;

use super::*;
use crate::config::{JwtAlgorithm, JwtKeyConfig, Secret, UserForm};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

pub(super) const NOW_MS: u64 = 1_800_000_000_000;
pub(super) const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub(super) const RSA_PRIVATE: &str = include_str!("../testdata/rsa.pem");
pub(super) const RSA_PUBLIC: &str = include_str!("../testdata/rsa.pub.pem");

pub(super) fn hs256() -> JwtKeyConfig {
    JwtKeyConfig { secret: Some(Secret(SECRET.to_owned())), ..JwtKeyConfig::new(JwtAlgorithm::HS256) }
}

pub(super) fn config(keys: Vec<JwtKeyConfig>) -> JwtConfig {
    JwtConfig {
        keys,
        audience: Some("chat".to_owned()),
        issuer: Some("app".to_owned()),
        leeway_s: 5,
        ..Default::default()
    }
}

pub(super) fn good() -> Value {
    json!({"sub": "alice", "exp": NOW_MS / 1000 + 60, "aud": "chat", "iss": "app"})
}

pub(super) fn signed(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).expect("signs")
}

pub(super) fn hs(claims: &Value) -> String {
    signed(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), claims)
}

#[test]
fn all_four_algorithms_are_checked() {
    let folder = tempfile::tempdir().expect("folder");
    let file = |name: &str, pem: String| {
        let path = folder.path().join(name);
        fs::write(&path, pem).expect("writes");
        Some(path)
    };
    let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
    let keys = vec![
        JwtKeyConfig { secret_file: file("hs", format!("{SECRET}\n")), ..JwtKeyConfig::new(JwtAlgorithm::HS256) },
        JwtKeyConfig { public_key_file: file("rsa", RSA_PUBLIC.to_owned()), ..JwtKeyConfig::new(JwtAlgorithm::RS256) },
        JwtKeyConfig { public_key_file: file("ec", ec.public_key_pem()), ..JwtKeyConfig::new(JwtAlgorithm::ES256) },
        JwtKeyConfig { public_key_file: file("ed", ed.public_key_pem()), ..JwtKeyConfig::new(JwtAlgorithm::EdDSA) },
    ];
    let keys = TokenKeys::load(&config(keys), None).expect("loads");
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
    let ed_key = |pair: &rcgen::KeyPair| EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).expect("key");
    for (algorithm, signer) in [
        (Algorithm::HS256, EncodingKey::from_secret(SECRET.as_bytes())),
        (Algorithm::RS256, EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).expect("key")),
        (Algorithm::ES256, EncodingKey::from_ec_pem(ec.serialize_pem().as_bytes()).expect("key")),
        (Algorithm::EdDSA, ed_key(&ed)),
    ] {
        let token = signed(algorithm, &signer, &good());
        let taken = keys.check(&token, "alice", NOW_MS).unwrap_or_else(|error| panic!("{algorithm:?}: {error}"));
        assert_eq!(taken.user.as_str(), "alice");
        assert_eq!(taken.expires_ms, NOW_MS + 65_000);
        // A changed body under the old signature.
        let mut parts: Vec<&str> = token.split('.').collect();
        let forged = signed(algorithm, &signer, &json!({"sub": "mallory"}));
        parts[1] = forged.split('.').nth(1).expect("three parts");
        assert!(
            matches!(keys.check(&parts.join("."), "", NOW_MS), Err(TokenError::Invalid(_) | TokenError::Unfit(_))),
            "{algorithm:?}"
        );
    }
    let token = signed(Algorithm::EdDSA, &ed_key(&other), &good());
    assert!(matches!(keys.check(&token, "", NOW_MS), Err(TokenError::Invalid(_) | TokenError::Unfit(_))));
}

#[test]
fn each_wrong_claim_is_refused() {
    let keys = TokenKeys::load(&config(vec![hs256()]), None).expect("loads");
    let with = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        hs(&claims)
    };
    let without = |name: &str| {
        let mut claims = good();
        claims.as_object_mut().expect("an object").remove(name);
        hs(&claims)
    };
    let now = NOW_MS / 1000;
    keys.check(&hs(&good()), "", NOW_MS).expect("good");
    keys.check(&with("exp", json!(now - 4)), "", NOW_MS).expect("within the leeway");
    keys.check(&with("aud", json!(["x", "chat"])), "", NOW_MS).expect("one of the audiences");
    assert_eq!(keys.check(&with("exp", json!(now - 5)), "", NOW_MS), Err(TokenError::Expired));
    assert_eq!(keys.check(&with("nbf", json!(now + 6)), "", NOW_MS), Err(TokenError::TooEarly));
    assert!(matches!(keys.check(&with("sub", json!("a b")), "", NOW_MS), Err(TokenError::Subject { .. })));
    assert_eq!(keys.check(&hs(&good()), "bob", NOW_MS), Err(TokenError::OtherUser));
    for token in [
        with("aud", json!("other")),
        with("iss", json!("other")),
        with("exp", json!("soon")),
        without("exp"),
        without("sub"),
        without("aud"),
        without("iss"),
        signed(Algorithm::HS256, &EncodingKey::from_secret(b"another secret of 32 bytes and more"), &good()),
        signed(Algorithm::HS384, &EncodingKey::from_secret(SECRET.as_bytes()), &good()),
        "eyJhbGciOiJub25lIn0.e30.".to_owned(),
        String::new(),
    ] {
        let refused = keys.check(&token, "", NOW_MS);
        assert!(matches!(refused, Err(TokenError::Invalid(_) | TokenError::Unfit(_))), "{token}: {refused:?}");
    }
}

#[test]
fn when_it_was_made_and_its_own_id_are_known() {
    let keys = TokenKeys::load(&config(vec![hs256()]), None).expect("loads");
    let token = |more: Value| {
        let mut claims = good();
        claims.as_object_mut().expect("an object").append(more.clone().as_object_mut().expect("an object"));
        keys.check(&hs(&claims), "", NOW_MS)
    };
    let named = token(json!({"iat": 1_799_999_999.25, "jti": "t-1"})).expect("good");
    assert_eq!(
        (named.issued_ms, named.id.as_deref()),
        (Some(1_799_999_994_250), Some("t-1")),
        "less the 5 s by which clocks may differ"
    );
    let bare = token(json!({})).expect("good");
    assert_eq!((bare.issued_ms, bare.id), (None, None));
    let longest = "x".repeat(MAX_TOKEN_ID_BYTES);
    assert_eq!(token(json!({ "jti": longest })).expect("good").id, Some(longest));
    for bad in [
        json!({"jti": ""}),
        json!({"jti": "x".repeat(MAX_TOKEN_ID_BYTES + 1)}),
        json!({"jti": 1}),
        json!({"iat": "now"}),
    ] {
        let refused = token(bad.clone());
        assert!(matches!(refused, Err(TokenError::Invalid(_) | TokenError::Unfit(_))), "{bad}: {refused:?}");
    }
}

#[test]
fn a_key_with_a_kid_checks_only_tokens_with_it() {
    let named = JwtKeyConfig { kid: Some("one".to_owned()), ..hs256() };
    let keys = TokenKeys::load(&config(vec![named]), None).expect("loads");
    let with_kid = |kid: &str| {
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        encode(&header, &good(), &EncodingKey::from_secret(SECRET.as_bytes())).expect("signs")
    };
    keys.check(&with_kid("one"), "", NOW_MS).expect("its kid");
    keys.check(&with_kid("two"), "", NOW_MS).expect_err("another kid");
    keys.check(&hs(&good()), "", NOW_MS).expect_err("no kid");
}

#[test]
fn a_short_secret_is_refused() {
    let short = JwtKeyConfig { secret: Some(Secret("short".to_owned())), ..hs256() };
    assert!(matches!(
        TokenKeys::load(&config(vec![short]), None),
        Err(InvalidTokenKey { place, why: TokenKeyError::ShortSecret(5) }) if place == "jwt.keys[0]"
    ));
}

/// Names by which "Different users become one" was found.
const LOOK_ALIKES: [(&str, &str); 6] = [
    ("Alice", "alice"),
    ("Straße", "strasse"),
    ("ａｌｉｃｅ", "alice"),
    ("al\u{ad}ice", "alice"),
    ("al\u{200d}ice", "alice"),
    ("\u{2460}", "1"),
];

#[test]
fn a_subject_that_is_not_in_normal_form_is_refused_and_told_it() {
    let keys = TokenKeys::load(&config(vec![hs256()]), None).expect("loads");
    for (subject, normal) in LOOK_ALIKES {
        let mut claims = good();
        claims["sub"] = subject.into();
        match keys.check(&hs(&claims), "", NOW_MS) {
            Err(TokenError::Subject { claim, why }) => {
                assert_eq!(claim, "sub");
                assert!(why.ends_with(&format!("its normal form is {normal:?}")), "{why}");
            }
            other => panic!("{subject}: {other:?}"),
        }
        claims["sub"] = normal.into();
        let token = keys.check(&hs(&claims), "", NOW_MS).expect("the normal form");
        assert_eq!(token.user.as_str(), normal);
        let named = keys.check(&hs(&claims), subject, NOW_MS);
        assert_eq!(named, Err(TokenError::OtherUser), "nor does the sign-in name it otherwise");
    }
}

#[test]
fn the_operator_may_have_subjects_normalised_or_escaped() {
    let with =
        |form: UserForm| TokenKeys::load(&JwtConfig { user_form: form, ..config(vec![hs256()]) }, None).expect("loads");
    let user = |keys: &TokenKeys, subject: &str| {
        let mut claims = good();
        claims["sub"] = subject.into();
        keys.check(&hs(&claims), "", NOW_MS).map(|token| token.user.as_str().to_owned())
    };
    let (normalise, escape) = (with(UserForm::Normalise), with(UserForm::Escape));
    for (subject, normal) in LOOK_ALIKES {
        assert_eq!(user(&normalise, subject).as_deref(), Ok(normal));
        let escaped = user(&escape, subject).expect("has a form of its own");
        assert_ne!(escaped, normal);
    }
    let forms: std::collections::HashSet<String> =
        LOOK_ALIKES.iter().flat_map(|(a, b)| [*a, *b]).map(|subject| user(&escape, subject).expect("a form")).collect();
    assert_eq!(forms.len(), 9, "each subject is another user: {forms:?}");
    user(&escape, &"é".repeat(100)).expect_err("600 bytes");
}

#[test]
fn another_claim_may_name_the_user() {
    let config = JwtConfig { user_claim: "email".to_owned(), user_form: UserForm::Escape, ..config(vec![hs256()]) };
    let keys = TokenKeys::load(&config, None).expect("loads");
    let user = |more: Value| {
        let mut claims = good();
        claims.as_object_mut().expect("an object").append(more.clone().as_object_mut().expect("an object"));
        keys.check(&hs(&claims), "", NOW_MS).map(|token| token.user.as_str().to_owned())
    };
    let mail = json!({"email": "alice@example.org"});
    assert_eq!(user(mail).as_deref(), Ok("alice\\40example.org"));
    let verified = json!({"email": "alice@example.org", "email_verified": true});
    assert_eq!(user(verified).as_deref(), Ok("alice\\40example.org"));
    user(json!({"email": "alice@example.org", "email_verified": false})).expect_err("anybody may have written it");
    user(json!({"email": "alice@example.org", "email_verified": "true"})).expect_err("no truth value");
    user(json!({})).expect_err("the claim is missing");
    user(json!({"email": ["alice@example.org"]})).expect_err("no string");
}

#[test]
fn two_issuers_have_two_alices() {
    let one = JwtKeyConfig { issuer: Some("one".to_owned()), ..hs256() };
    let other_secret = "another secret of 32 bytes and more";
    let two = JwtKeyConfig {
        secret: Some(Secret(other_secret.to_owned())),
        issuer: Some("two".to_owned()),
        realm: Some("two".to_owned()),
        ..JwtKeyConfig::new(JwtAlgorithm::HS256)
    };
    let keys = TokenKeys::load(&config(vec![one, two]), None).expect("loads");
    let user = |secret: &str, issuer: &str, subject: &str| {
        let mut claims = good();
        claims["iss"] = issuer.into();
        claims["sub"] = subject.into();
        let token = signed(Algorithm::HS256, &EncodingKey::from_secret(secret.as_bytes()), &claims);
        keys.check(&token, "", NOW_MS).map(|token| token.user.as_str().to_owned())
    };
    assert_eq!(user(SECRET, "one", "alice").as_deref(), Ok("alice"));
    assert_eq!(user(other_secret, "two", "alice").as_deref(), Ok("two!alice"));
    // Neither speaks for the other, by its name or by a subject that looks like it.
    user(SECRET, "two", "alice").expect_err("signed by one");
    user(other_secret, "one", "alice").expect_err("signed by two");
    user(SECRET, "one", "two!alice").expect_err("a realm of another");
}

//! The rules of RFC 7515 (JWS), RFC 7519 (JWT), RFC 7518 (JWA), RFC 7797 and RFC 8725 (best practices) with MUST for services that
//! check tokens: each with its test, or with the reason why it does not apply.
//!
//! Rules that do not apply:
//!
//! | quote | why not |
//! | --- | --- |
//! | 7515 5.2: "If the JWS JSON Serialization is being used ..." | tokens are in the compact serialization only; another has no three parts: `a_token_has_three_parts_in_strict_base64url` |
//! | 7515 4.1.2, 4.1.5: "the use of TLS is REQUIRED" for `jku`, `x5u` | they are not followed: `keys_come_from_the_configuration_alone` |
//! | 7515 4.1.6: the `x5c` chain "MUST" be validated | not used: the same test |
//! | 7519 7.2 step 7, 5.3: JWE, replicated claims | encrypted tokens are refused: `tokens_of_other_kinds_are_refused` |
//! | 7519 4.1.7: "jti ... MUST be assigned in a manner that ensures that there is a negligible probability ..." | of the maker; its use as the name of one token: `when_it_was_made_and_its_own_id_are_known` |
//! | 7519 4.1.1 and 2: a StringOrURI with a ":" "MUST be a URI" | of the maker; issuers and audiences are compared as they are: `issuer_and_audience_are_compared_byte_by_byte` |
//! | 8725 3.2, 3.5: PBES2, ECDH-ES, RSA-PKCS1 encryption, deterministic ECDSA | encryption and signing are not done here |
//! | 8725 3.6: "MUST NOT be compressed" before encryption | encrypted tokens are refused |
//! | 8725 3.10: `kid` must not be used in look-ups that it can inject into | it is compared with the configured ones, never looked up elsewhere: `a_key_with_a_kid_checks_only_tokens_with_it` |

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use super::{
    tests::{NOW_MS, RSA_PRIVATE, RSA_PUBLIC, SECRET, config, good, hs256},
    *,
};
use crate::config::{JwtAlgorithm, JwtKeyConfig, Secret};

fn keys() -> TokenKeys {
    TokenKeys::load(&config(vec![hs256()]), None).expect("loads")
}

/// Signed by the right key, whatever the header and the claims are.
fn sign(header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).expect("signs");
    format!("{signed}.{signature}")
}

fn with_header(more: Value) -> Result<Token, TokenError> {
    let mut header = json!({"alg": "HS256"});
    header.as_object_mut().expect("an object").append(more.clone().as_object_mut().expect("an object"));
    keys().check(&sign(&header.to_string(), &good().to_string()), "", NOW_MS)
}

fn with_claims(more: Value) -> Result<Token, TokenError> {
    let mut claims = good();
    claims.as_object_mut().expect("an object").append(more.clone().as_object_mut().expect("an object"));
    keys().check(&sign(r#"{"alg":"HS256"}"#, &claims.to_string()), "", NOW_MS)
}

fn refused(token: &str) {
    let refused = keys().check(token, "", NOW_MS);
    assert!(matches!(refused, Err(TokenError::Invalid(_) | TokenError::Unfit(_))), "{token}: {refused:?}");
}

/// 7515 section 5.2: "Base64url-decode the encoded representation of the JWS Protected Header, following the restriction
/// that no line breaks, whitespace, or other additional characters have been used." Section 2: "with all trailing '='
/// characters omitted". 7519 section 7.2: "Verify that the JWT contains at least one period".
#[test]
fn a_token_has_three_parts_in_strict_base64url() {
    let token = sign(r#"{"alg":"HS256"}"#, &good().to_string());
    keys().check(&token, "", NOW_MS).expect("good");
    let parts: Vec<&str> = token.split('.').collect();
    let (header, claims, signature) = (parts[0], parts[1], parts[2]);
    for bad in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        "x".to_owned(),
        format!("{header}.{claims}"),
        format!("{header}.{claims}."),
        format!("{token}."),
        format!("{token}.x"),
        format!(" {token}"),
        format!("{token} "),
        format!("{token}\n"),
        format!("{token}="),
        format!("{header}=.{claims}.{signature}"),
        format!("{header}.{claims}\n.{signature}"),
        format!("{header}.{}\r\n{}.{signature}", &claims[..4], &claims[4..]),
        token.replace('_', "/").replace('-', "+") + "+",
        json!({"payload": claims, "signatures": [{"protected": header, "signature": signature}]}).to_string(),
    ] {
        refused(&bad);
    }
    // 32 bytes are 43 characters, the last of which has two bits to spare: one signature has one spelling.
    let last = signature.as_bytes()[42];
    let spare = URL_SAFE_NO_PAD.encode([0xff; 32]).len();
    assert_eq!(spare, 43);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(char::from(last)).expect("of the alphabet");
    let next = alphabet.as_bytes()[at ^ 1];
    refused(&format!("{header}.{claims}.{}{}", &signature[..42], char::from(next)));
}

/// 8725 section 3: none, but a service for strangers bounds what it reads.
#[test]
fn a_huge_token_is_refused_unread() {
    let mut claims = good();
    claims["more"] = "x".repeat(MAX_TOKEN_BYTES).into();
    refused(&sign(r#"{"alg":"HS256"}"#, &claims.to_string()));
}

/// 7515 section 5.2: "Verify that the resulting octet sequence is a UTF-8-encoded representation of a completely valid
/// JSON object". 7519 section 7.2: "Verify that the resulting octet sequence is a UTF-8-encoded representation of a
/// completely valid JSON object conforming to RFC 7159; let the JWT Claims Set be this JSON object."
#[test]
fn header_and_claims_are_json_objects() {
    let claims = good().to_string();
    for header in
        ["", "null", "[]", "\"HS256\"", "{", r#"{"alg":"HS256"}x"#, r#"{"alg":"HS256",}"#, "{}", r#"{"alg":1}"#]
    {
        refused(&sign(header, &claims));
    }
    for claims in ["", "null", "[]", "1", "{", &format!("{claims} x"), "{}"] {
        refused(&sign(r#"{"alg":"HS256"}"#, claims));
    }
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(b"{\"alg\":\"HS256\",\"x\":\"\xff\"}"),
        URL_SAFE_NO_PAD.encode(&claims)
    );
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    refused(&format!("{signed}.{}", crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).expect("signs")));
}

/// 7515 section 4: "The Header Parameter names within the JOSE Header MUST be unique; JWS parsers MUST either reject JWSs
/// with duplicate Header Parameter names or use a JSON parser that returns only the lexically last". 7519 section 4 says
/// the same of claims.
#[test]
fn a_name_that_is_there_twice_is_refused() {
    let claims = good().to_string();
    refused(&sign(r#"{"alg":"HS256","alg":"HS256"}"#, &claims));
    refused(&sign(r#"{"alg":"HS256","x":1,"x":1}"#, &claims));
    let twice = format!(r#"{{"sub":"mallory",{}"#, &claims[1..]);
    refused(&sign(r#"{"alg":"HS256"}"#, &twice));
}

/// 7515 section 4.1.11: "If any of the listed extension Header Parameters are not understood and supported by the
/// recipient, then the JWS is invalid." "Producers MUST NOT use the empty list", "MUST NOT include Header Parameter names
/// defined by this specification". 7797 section 6: "the "crit" Header Parameter MUST be included with "b64" in its set".
#[test]
fn critical_extensions_are_not_understood() {
    for header in [
        json!({"crit": ["x"], "x": 1}),
        json!({"crit": []}),
        json!({"crit": ["alg"]}),
        json!({"crit": "x"}),
        json!({"crit": null}),
        json!({"crit": ["b64"], "b64": false}),
        json!({"b64": false}),
        json!({"b64": true}),
    ] {
        let refused = with_header(header.clone());
        assert!(matches!(refused, Err(TokenError::Invalid(_) | TokenError::Unfit(_))), "{header}: {refused:?}");
    }
}

/// 7515 section 4: "Implementations are required to understand the specific Header Parameters defined by this
/// specification that are designated as "MUST be understood" and process them in the manner defined. All other Header
/// Parameters defined by this specification that are not so designated MUST be ignored when not understood." 7519 section
/// 4: "all claims that are not understood by implementations MUST be ignored".
#[test]
fn what_is_not_understood_and_not_critical_is_ignored() {
    with_header(json!({"zip": "x", "url": 1, "x": {"y": []}})).expect("ignored");
    with_claims(json!({"name": "Alice", "roles": ["x"], "x": {"exp": 0}})).expect("ignored");
}

/// 8725 section 3.1: "Libraries MUST enable the caller to specify a supported set of algorithms and MUST NOT use any other
/// algorithms ... The library MUST ensure that the "alg" or "enc" header specifies the same algorithm that is used for the
/// cryptographic operation. Moreover, each key MUST be used with exactly one algorithm, and this MUST be checked when the
/// cryptographic operation is performed." 7518 section 3.6: "Implementations that support Unsecured JWSs MUST NOT accept
/// such objects as valid unless the application specifies" so. 7515 section 4.1.1: "The "alg" value is a case-sensitive
/// ASCII string".
#[test]
fn a_key_checks_its_own_algorithm_and_no_other() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("rsa");
    std::fs::write(&path, RSA_PUBLIC).expect("writes");
    let rsa = JwtKeyConfig { public_key_file: Some(path), ..JwtKeyConfig::new(JwtAlgorithm::RS256) };
    let both = TokenKeys::load(&config(vec![rsa.clone(), hs256()]), None).expect("loads");
    let only_rsa = TokenKeys::load(&config(vec![rsa]), None).expect("loads");
    let claims = good().to_string();
    let encode = |header: &str| format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(&claims));
    for alg in
        ["none", "None", "NONE", "nOnE", "", "hs256", "HS384", "HS512", "RS512", "PS256", "ES384", "RS256", " HS256"]
    {
        // Unsigned, and with the signature that HS256 would have.
        let header = json!({"alg": alg}).to_string();
        refused(&format!("{}.", encode(&header)));
        refused(&sign(&header, &claims));
    }
    // The public key as the secret of HS256: the old confusion.
    for secret in [RSA_PUBLIC, RSA_PUBLIC.trim_end()] {
        let signed = encode(r#"{"alg":"HS256"}"#);
        let secret = EncodingKey::from_secret(secret.as_bytes());
        let token = format!("{signed}.{}", crypto::sign(signed.as_bytes(), &secret, Algorithm::HS256).expect("signs"));
        both.check(&token, "", NOW_MS).expect_err("a public key is no secret");
        only_rsa.check(&token, "", NOW_MS).expect_err("a public key is no secret");
    }
    // A good signature of RS256 under another name.
    let signed = encode(r#"{"alg":"HS256"}"#);
    let private = EncodingKey::from_rsa_pem(RSA_PRIVATE.as_bytes()).expect("key");
    let token = format!("{signed}.{}", crypto::sign(signed.as_bytes(), &private, Algorithm::RS256).expect("signs"));
    both.check(&token, "", NOW_MS).expect_err("alg says HS256");
}

/// 8725 section 3.3: "The JWT MUST be rejected in the event that any of the cryptographic operations fail" (7519 7.2: "If
/// any of the listed steps fail, then the JWT MUST be rejected").
#[test]
fn nothing_that_was_signed_can_be_changed() {
    let token = sign(r#"{"alg":"HS256"}"#, &good().to_string());
    let dots: Vec<usize> = token.match_indices('.').map(|(at, _)| at).collect();
    for at in (0..token.len()).filter(|at| !dots.contains(at)) {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).expect("ASCII");
        if changed != token {
            keys().check(&changed, "", NOW_MS).map(|_| ()).expect_err(&changed);
        }
    }
}

/// 7518 section 3.2: "A key of the same size as the hash output (for instance, 256 bits for "HS256") or larger MUST be
/// used". Section 3.3: "A key of size 2048 bits or larger MUST be used with these algorithms." Section 3.4: P-256 for
/// ES256. 8725 section 3.5: "human-memorizable passwords MUST NOT be directly used as the key": not to be told from bytes
/// but by their length, and deploy/carillon.toml says it.
#[test]
fn weak_keys_are_refused_at_the_start() {
    let refused = |key: JwtKeyConfig| TokenKeys::load(&config(vec![key]), None).map(|_| ()).map_err(|error| error.why);
    let short = JwtKeyConfig { secret: Some(Secret("x".repeat(31))), ..JwtKeyConfig::new(JwtAlgorithm::HS256) };
    assert!(matches!(refused(short), Err(TokenKeyError::ShortSecret(31))));
    let public = JwtKeyConfig { secret: Some(Secret(RSA_PUBLIC.to_owned())), ..JwtKeyConfig::new(JwtAlgorithm::HS256) };
    assert!(matches!(refused(public), Err(TokenKeyError::PublicSecret)));
    let lines = JwtKeyConfig { secret: Some(Secret("x".repeat(40) + "\n")), ..JwtKeyConfig::new(JwtAlgorithm::HS256) };
    assert!(matches!(refused(lines), Err(TokenKeyError::LineFeed)));
    let folder = tempfile::tempdir().expect("folder");
    let load = |algorithm, pem: &str| {
        let path = folder.path().join("key");
        std::fs::write(&path, pem).expect("writes");
        refused(JwtKeyConfig { public_key_file: Some(path), ..JwtKeyConfig::new(algorithm) })
    };
    // Of several lines, a program could sign with the first one, or with all: nobody can see which.
    for (secret, lines) in [("x".repeat(40) + "\n", 1), ("x".repeat(40) + "\r\n" + &"y".repeat(40) + "\n", 2)] {
        let path = folder.path().join("secret");
        std::fs::write(&path, &secret).expect("writes");
        let loaded =
            refused(JwtKeyConfig { secret_file: Some(path), secret: None, ..JwtKeyConfig::new(JwtAlgorithm::HS256) });
        match lines {
            1 => loaded.expect("one line"),
            _ => assert!(matches!(loaded, Err(TokenKeyError::Lines { lines: 2, .. })), "{loaded:?}"),
        }
    }
    load(JwtAlgorithm::RS256, RSA_PUBLIC).expect("2048 bits");
    let short = load(JwtAlgorithm::RS256, include_str!("../testdata/rsa1024.pub.pem"));
    assert!(matches!(short, Err(TokenKeyError::ShortKey { bits: 1024, .. })), "{short:?}");
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("key").public_key_pem();
    let other = load(JwtAlgorithm::ES256, &p384);
    assert!(matches!(other, Err(TokenKeyError::Curve { .. })), "{other:?}");
    let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key").public_key_pem();
    assert!(matches!(load(JwtAlgorithm::RS256, &ec), Err(TokenKeyError::Key { .. })));
    assert!(matches!(load(JwtAlgorithm::EdDSA, &ec), Err(TokenKeyError::Key { .. })));
    assert!(matches!(load(JwtAlgorithm::ES256, RSA_PUBLIC), Err(TokenKeyError::Key { .. })));
}

/// 8725 section 3.10: "arbitrary URLs ... could result in server-side request forgery (SSRF)"; 7515 section 4.1.3: a `jwk`
/// is the signer's word only. No key but a configured one is used, whatever the header says.
#[test]
fn keys_come_from_the_configuration_alone() {
    let own = "mallory's own secret of 32 bytes and more";
    let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(own), "alg": "HS256"});
    for header in [
        json!({"alg": "HS256", "jwk": jwk}),
        json!({"alg": "HS256", "jku": "http://127.0.0.1:1/keys"}),
        json!({"alg": "HS256", "x5u": "http://127.0.0.1:1/chain"}),
        json!({"alg": "HS256", "x5c": ["AAAA"]}),
        json!({"alg": "HS256", "kid": "../../../../dev/null"}),
        json!({"alg": "HS256", "kid": "' OR 1=1 --"}),
    ] {
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(good().to_string()));
        let key = EncodingKey::from_secret(own.as_bytes());
        refused(&format!("{signed}.{}", crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).expect("signs")));
    }
    with_header(json!({"kid": 1})).expect_err("a kid is a string");
}

/// 8725 section 3.11 and 3.12: "use of explicit typing", "the validation rules for different kinds of JWTs MUST be
/// mutually exclusive". 7519 section 5.2: "If the JWT is nested, "cty" MUST be present". 7519 section 5.1: `typ` is a
/// media type, whose names know no case; 7515 section 4.1.9: a recipient "MUST treat it as if "application/" were
/// prepended".
#[test]
fn tokens_of_other_kinds_are_refused() {
    for typ in ["JWT", "jwt", "application/jwt", "at+jwt", "application/at+jwt"] {
        with_header(json!({ "typ": typ })).expect(typ);
    }
    for typ in ["logout+jwt", "dpop+jwt", "secevent+jwt", "JOSE", "JWE", ""] {
        with_header(json!({ "typ": typ })).expect_err(typ);
    }
    with_header(json!({"typ": 1})).expect_err("no string");
    with_header(json!({"cty": "JWT"})).expect_err("a token within a token");
    let strict = JwtConfig { typ: Some("application/chat+jwt".to_owned()), ..config(vec![hs256()]) };
    let strict = TokenKeys::load(&strict, None).expect("loads");
    let check = |header: &str| strict.check(&sign(header, &good().to_string()), "", NOW_MS);
    check(r#"{"alg":"HS256","typ":"Chat+JWT"}"#).expect("as configured");
    check(r#"{"alg":"HS256","typ":"JWT"}"#).expect_err("another");
    check(r#"{"alg":"HS256"}"#).expect_err("none");
    // An encrypted one has five parts.
    refused("eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..AAAAAAAAAAAAAAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAA");
}

/// 7519 section 4.1.4: "The processing of the "exp" claim requires that the current date/time MUST be before the
/// expiration date/time". Section 4.1.5: "MUST be after or equal to the not-before date/time". Both and `iat`: "Its value
/// MUST be a number containing a NumericDate value", which may have a fraction (section 2).
#[test]
fn times_are_numbers_and_hold() {
    let now = NOW_MS as f64 / 1000.0;
    // The leeway is 5 s.
    assert_eq!(with_claims(json!({"exp": now - 5.0})), Err(TokenError::Expired));
    with_claims(json!({"exp": now - 4.999})).expect("within the leeway");
    assert_eq!(with_claims(json!({"nbf": now + 5.001})), Err(TokenError::TooEarly));
    with_claims(json!({"nbf": now + 5.0})).expect("within the leeway");
    assert_eq!(with_claims(json!({"iat": now + 5.001})), Err(TokenError::IssuedAhead));
    with_claims(json!({"iat": now + 5.0})).expect("within the leeway");
    assert_eq!(with_claims(json!({"exp": 0})), Err(TokenError::Expired));
    assert_eq!(with_claims(json!({"exp": -1e300})), Err(TokenError::Expired));
    assert_eq!(with_claims(json!({"exp": 1e300})).expect("late").expires_ms, u64::MAX);
    for name in ["exp", "nbf", "iat"] {
        for wrong in [json!("1800000060"), json!("soon"), json!(null), json!(true), json!([1_800_000_060]), json!({})] {
            let mut claims = json!({});
            claims[name] = wrong;
            let refused = with_claims(claims.clone());
            assert!(matches!(refused, Err(TokenError::Invalid(_) | TokenError::Unfit(_))), "{claims}: {refused:?}");
        }
    }
    let huge = good().to_string().replacen("{", r#"{"nbf":1e999,"#, 1);
    refused(&sign(r#"{"alg":"HS256"}"#, &huge));
    let mut none = good();
    none.as_object_mut().expect("an object").remove("exp");
    refused(&sign(r#"{"alg":"HS256"}"#, &none.to_string()));
}

/// 7519 section 4.1.3: "Each principal intended to process the JWT MUST identify itself with a value in the audience
/// claim. If the principal processing the claim does not identify itself with a value in the "aud" claim when this claim
/// is present, then the JWT MUST be rejected." 8725 section 3.9: "the application MUST validate".
#[test]
fn a_token_for_others_is_refused() {
    for aud in [json!("chat"), json!(["chat"]), json!(["x", "chat"])] {
        with_claims(json!({ "aud": aud })).expect("names this service");
    }
    for aud in [json!("x"), json!([]), json!(["x"]), json!(null), json!(1), json!([1, "chat"]), json!({"chat": 1})] {
        with_claims(json!({ "aud": aud })).expect_err("does not");
    }
    let nobody = TokenKeys::load(&JwtConfig { audience: None, ..config(vec![hs256()]) }, None).expect("loads");
    let check = |claims: &Value| nobody.check(&sign(r#"{"alg":"HS256"}"#, &claims.to_string()), "", NOW_MS);
    check(&good()).expect_err("names an audience, and this service is none");
    let mut claims = good();
    claims.as_object_mut().expect("an object").remove("aud");
    check(&claims).expect("names nobody");
}

/// 8725 section 3.8: "When a JWT contains an "iss" claim, the application MUST validate that the cryptographic keys used
/// for the cryptographic operations in the JWT belong to the issuer. If they do not, the application MUST reject the JWT."
/// 7519 section 7.3 and 4.1.1 to 4.1.3: names and values are "case-sensitive" strings; 7519 section 2: they "are compared
/// as case-sensitive strings with no transformations or canonicalizations applied".
#[test]
fn issuer_and_audience_are_compared_byte_by_byte() {
    for (name, wrong) in [
        ("iss", json!("App")),
        ("iss", json!("app ")),
        ("iss", json!("app/")),
        ("iss", json!("\u{ff41}pp")),
        ("iss", json!(["app"])),
        ("iss", json!(null)),
        ("aud", json!("Chat")),
        ("aud", json!("chat/")),
    ] {
        let mut claims = json!({});
        claims[name] = wrong;
        with_claims(claims.clone()).map(|_| ()).expect_err(&claims.to_string());
    }
    with_claims(json!({"Iss": "x", "AUD": "x", "Exp": 0})).expect("other claims");
}

/// 8725 section 3.8: "the subject value corresponds to a valid subject and/or issuer/subject pair at the application".
/// 7519 section 4.1.2: "The subject value MUST either be scoped to be locally unique in the context of the issuer or be
/// globally unique. ... The "sub" value is a case-sensitive string".
#[test]
fn a_subject_is_one_user_and_a_string() {
    for wrong in [json!(1), json!(null), json!(["alice"]), json!({"id": "alice"}), json!(true)] {
        let refused = with_claims(json!({ "sub": wrong }));
        assert!(matches!(refused, Err(TokenError::Invalid(_) | TokenError::Unfit(_))), "{wrong}: {refused:?}");
    }
    for wrong in ["", "Alice", "al ice", "alice@example.org", "alice\u{0}"] {
        let refused = with_claims(json!({ "sub": wrong }));
        assert!(matches!(refused, Err(TokenError::Subject { .. })), "{wrong}: {refused:?}");
    }
}

//! Tokens for test users, signed with the service's own secret.

use jsonwebtoken::{Algorithm, EncodingKey, Header};

#[derive(serde::Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
}

/// An HS256 token, valid for a day.
pub fn sign(secret: &str, user: &str) -> String {
    let now = carillon_proto::now_ms() / 1000;
    let claims = Claims { sub: user, iat: now, exp: now + 24 * 3600 };
    // Encoding fails only for a key of another kind, or claims that are not JSON. Neither is possible here.
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes()))
        .expect("HS256 over plain claims")
}

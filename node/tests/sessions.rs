//! Credentials and sessions from outside: what an operator does with `carillon session` and `carillon token` and with
//! new passwords, and what clients see.

mod support;

use std::time::{Duration, Instant};

use carillon_client::{Credential, SignInError};
use carillon_proto::pb::client::Code;
use support::{
    people::{PATIENCE, code_of, done, enter, failed, shared, with_new_token, with_token},
    service::{Carrier, Service, TOKEN_SECRET},
};

#[test]
fn a_new_password_puts_out_whoever_signed_in_with_the_old_one() {
    let service = shared();
    done(service, &["user", "add", "frank", "--password-stdin"], "the first one\n");
    let address = service.address(Carrier::Tcp);
    let (old, new) = (Credential::Password("the first one".into()), Credential::Password("the second one".into()));
    service.block_on(async {
        let mut before = enter(&address, "frank", "a", &old).await.expect("signs in");
        before.send("frank", "1", "note").await.expect("accepted");
        done(service, &["user", "add", "frank", "--replace", "--password-stdin"], "the second one\n");
        assert_eq!(before.bye().await, (Code::Unauthenticated, false));
        assert_eq!(code_of(enter(&address, "frank", "a", &old).await), Code::Unauthenticated);
        let mut after = enter(&address, "frank", "a", &new).await.expect("signs in");
        assert_eq!(after.history().await.entries.len(), 1, "it is the same account");
    });
}

#[test]
fn a_replacement_without_a_password_puts_out_whoever_is_signed_in() {
    let service = shared();
    done(service, &["user", "add", "peggy", "--no-password"], "");
    service.block_on(async {
        let mut before = with_token(service, "peggy").await;
        done(service, &["user", "add", "peggy", "--no-password", "--replace"], "");
        assert_eq!(before.bye().await, (Code::Unauthenticated, false));
    });
}

/// A token with this id, issued this many seconds ago.
fn token(user: &str, id: &str, seconds_ago: u64) -> Credential {
    let now = carillon_proto::now_ms() / 1000;
    let claims = serde_json::json!({"sub": user, "jti": id, "iat": now - seconds_ago, "exp": now + 3600});
    Credential::Token(signed(&claims))
}

fn signed(claims: &serde_json::Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(TOKEN_SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).expect("signs")
}

#[test]
fn a_token_of_the_owner_before_is_not_the_next_ones() {
    let service = shared();
    let address = service.address(Carrier::Tcp);
    let old = token("grace", "old", 60);
    done(service, &["user", "add", "grace", "--no-password"], "");
    service.block_on(async {
        enter(&address, "grace", "d", &old).await.expect("signs in");
        done(service, &["user", "delete", "grace"], "");
        done(service, &["user", "add", "grace", "--no-password"], "");
        assert_eq!(code_of(enter(&address, "grace", "d", &old).await), Code::Unauthenticated);
        let without_time = Credential::Token({
            signed(&serde_json::json!({"sub": "grace", "exp": carillon_proto::now_ms() / 1000 + 60}))
        });
        assert_eq!(code_of(enter(&address, "grace", "d", &without_time).await), Code::Unauthenticated);
        // A token issued in the same second as the account may be older than the account.
        let shown = done(service, &["user", "list", "--json", "--limit", "5000"], "");
        let users = shown.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let made = users.into_iter().find(|user| user["user"] == "grace").expect("listed");
        let made_s = made["created_ms"].as_u64().expect("a time") / 1000;
        let of_that_second = Credential::Token(signed(&serde_json::json!({
            "sub": "grace", "iat": made_s, "exp": made_s + 3600
        })));
        match enter(&address, "grace", "d", &of_that_second).await {
            Err(SignInError::Bye(bye)) => {
                assert_eq!(bye.code(), Code::Unauthenticated);
                assert!(bye.reason.contains("before this account was made"), "{}", bye.reason);
            }
            Err(other) => panic!("refused otherwise: {other}"),
            Ok(_) => panic!("signed in"),
        }
        with_new_token(service, "grace").await;
    });
}

#[test]
fn revoked_tokens_are_refused_and_end_what_they_opened() {
    let service = shared();
    let address = service.address(Carrier::Grpc);
    done(service, &["user", "add", "heidi", "--password-stdin"], "a long secret\n");
    service.block_on(async {
        let mut stolen = enter(&address, "heidi", "a", &token("heidi", "stolen", 5)).await.expect("signs in");
        let mut other = enter(&address, "heidi", "b", &token("heidi", "other", 5)).await.expect("signs in");
        let password = Credential::Password("a long secret".into());
        let mut by_password = enter(&address, "heidi", "c", &password).await.expect("signs in");
        let said = done(service, &["token", "revoke", "heidi", "--id", "stolen"], "");
        assert!(said.contains("1 session ended"), "{said}");
        assert_eq!(stolen.bye().await, (Code::Unauthenticated, false));
        assert_eq!(code_of(enter(&address, "heidi", "a", &token("heidi", "stolen", 0)).await), Code::Unauthenticated);
        other.send("heidi", "1", "still here").await.expect("accepted");
        done(service, &["token", "revoke", "heidi", "--before", "now"], "");
        assert_eq!(other.bye().await, (Code::Unauthenticated, false));
        by_password.send("heidi", "2", "still here").await.expect("accepted");
        assert_eq!(code_of(enter(&address, "heidi", "b", &token("heidi", "older", 5)).await), Code::Unauthenticated);
        // New tokens are valid from the next second on.
        let until = Instant::now() + PATIENCE;
        while enter(&address, "heidi", "b", &token("heidi", "new", 0)).await.is_err() {
            assert!(Instant::now() < until, "new tokens are refused for ever");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let shown = done(service, &["user", "show", "heidi"], "");
        assert!(shown.contains("token stolen until") && shown.contains("refused if issued before"), "{shown}");
    });
    assert!(failed(service, &["token", "revoke", "nobody", "--before", "now"]).contains("no user"));
}

#[test]
fn an_operator_sees_and_ends_sessions() {
    let service = shared();
    let address = service.address(Carrier::WebSocketProto);
    done(service, &["user", "add", "ivan", "--no-password"], "");
    let sessions = |args: &[&str]| -> Vec<serde_json::Value> {
        let list = done(service, &[&["session", "list", "--json"], args].concat(), "");
        list.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    service.block_on(async {
        let mut phone = enter(&address, "ivan", "phone", &token("ivan", "t1", 0)).await.expect("signs in");
        let mut laptop = enter(&address, "ivan", "laptop", &token("ivan", "t2", 0)).await.expect("signs in");
        let his = sessions(&["--user", "ivan"]);
        assert_eq!(his.len(), 2, "{his:?}");
        assert_eq!((&his[0]["device"], &his[0]["handle"]), (&"laptop".into(), &laptop.signed_in.handle.clone().into()));
        assert_eq!((&his[1]["protocol"], &his[1]["token_id"]), (&"websocket".into(), &"t1".into()));
        assert!(sessions(&[]).iter().any(|session| session["handle"] == *phone.signed_in.handle));
        let said = done(service, &["session", "end", &phone.signed_in.handle], "");
        assert!(said.contains("ivan") && said.contains("1 session ended"), "{said}");
        assert_eq!(phone.bye().await, (Code::Unauthenticated, false));
        laptop.send("ivan", "1", "still here").await.expect("accepted");
        assert!(failed(service, &["session", "end", &phone.signed_in.handle]).contains("no session"));
        // Ivan may sign in again: his credentials are still valid.
        let mut phone = enter(&address, "ivan", "phone", &token("ivan", "t1", 0)).await.expect("signs in");
        done(service, &["session", "end", "--user", "ivan"], "");
        assert_eq!(phone.bye().await, (Code::Unauthenticated, false));
        assert_eq!(laptop.bye().await, (Code::Unauthenticated, false));
        assert_eq!(sessions(&["--user", "ivan"]), Vec::<serde_json::Value>::new());
    });
    let users = done(service, &["user", "list", "--json", "--limit", "5000"], "");
    let users: Vec<serde_json::Value> = users.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let ivan = users.iter().find(|user| user["user"] == "ivan").expect("listed");
    assert_eq!((&ivan["password"], &ivan["deleted_ms"]), (&false.into(), &serde_json::Value::Null));
    let names: Vec<_> = users.iter().map(|user| user["user"].as_str().expect("a name").to_owned()).collect();
    assert!(names.is_sorted(), "{names:?}");
    done(service, &["user", "delete", "ivan"], "");
    assert!(!done(service, &["user", "list"], "").contains("ivan"));
    assert!(done(service, &["user", "list", "--deleted"], "").contains("ivan"));
    assert!(done(service, &["user", "show", "ivan"], "").contains("deleted"));
    assert!(failed(service, &["user", "show", "nobody"]).contains("no user"));
}

#[test]
fn a_user_has_only_so_many_devices() {
    let service = Service::start("router.max_devices_per_user = 2");
    service.block_on(async {
        let token = Credential::Token(service.token("alice"));
        let address = service.address(Carrier::Tcp);
        let first = enter(&address, "alice", "one", &token).await.expect("signs in");
        let _second = enter(&address, "alice", "two", &token).await.expect("signs in");
        assert_eq!(code_of(enter(&address, "alice", "three", &token).await), Code::Overloaded);
        let _again = enter(&address, "alice", "two", &token).await.expect("a device that is signed in already");
        drop(first);
        // Waits until the gateway has noticed the end of the connection.
        let deadline = Instant::now() + PATIENCE;
        while enter(&address, "alice", "three", &token).await.is_err() {
            assert!(Instant::now() < deadline, "waited for the place of a device that has left");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

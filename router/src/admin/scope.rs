//! The caller: the operator, or the administrators of a domain, who administer this domain and nothing else. See
//! docs/adr/0036-domain-rules.md.

use std::{fmt, sync::Arc};

use carillon_proto::{
    GroupId, UserId,
    peer::{CheckToken, vouch},
};
use tokio::sync::watch;
use tonic::{Request, Status, service::Interceptor};

use crate::topology::Topology;

/// The part of the service that the caller may administer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    Operator,
    /// The domain of this name; empty: the default one.
    Domain(String),
}

/// Admits the operator and the administrators of domains, and stores the caller's [`Scope`] in the request's extensions.
#[derive(Clone)]
pub(crate) struct CheckScope {
    pub(crate) operator: CheckToken,
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
}

impl Interceptor for CheckScope {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let given = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = given.and_then(|given| given.strip_prefix("Bearer "));
        let domain =
            token.and_then(|token| self.topology.borrow().domains.of_token(token).map(|domain| domain.name.clone()));
        let scope = match domain {
            Some(domain) => {
                vouch(&request);
                Scope::Domain(domain)
            }
            None => {
                request = self.operator.call(request)?;
                Scope::Operator
            }
        };
        request.extensions_mut().insert(scope);
        Ok(request)
    }
}

/// The request, with what its caller may administer.
pub(super) fn scoped<T>(request: Request<T>) -> Result<(Scope, T), Status> {
    let scope = request.extensions().get::<Scope>().cloned();
    let scope = scope.ok_or_else(|| Status::internal("nobody has looked at the token"))?;
    Ok((scope, request.into_inner()))
}

/// The request, if the operator makes it.
pub(super) fn of_operator<T>(request: Request<T>) -> Result<T, Status> {
    match scoped(request)? {
        (Scope::Operator, request) => Ok(request),
        (Scope::Domain(_), _) => {
            Err(Status::permission_denied("only the operator may do that, not a domain's administrator"))
        }
    }
}

/// The request about a user, if the caller administers this one.
pub(super) fn about_user<T>(request: Request<T>, user: impl Fn(&T) -> &str) -> Result<T, Status> {
    let (scope, request) = scoped(request)?;
    scope.check(user(&request))?;
    Ok(request)
}

/// The request about a group, with its caller, if this one administers the group's domain.
pub(super) fn about_group<T>(request: Request<T>, group: impl Fn(&T) -> &str) -> Result<(Scope, T), Status> {
    let (scope, request) = scoped(request)?;
    scope.check_group(group(&request))?;
    Ok((scope, request))
}

impl Scope {
    /// Refuses a group that the caller does not administer. The answer is the same whether there is such a group or not.
    fn check_group(&self, group: &str) -> Result<(), Status> {
        let has = match self {
            Self::Operator => true,
            Self::Domain(own) => GroupId::new(group).is_ok_and(|group| group.domain().unwrap_or_default() == own),
        };
        if has {
            return Ok(());
        }
        Err(Status::permission_denied(format!("{group:?} is no group of the domain of this token")))
    }

    /// True for each user whom the caller administers.
    pub(super) fn has(&self, user: &str) -> bool {
        match self {
            Self::Operator => true,
            Self::Domain(own) => UserId::new(user).is_ok_and(|user| user.domain().unwrap_or_default() == own),
        }
    }

    /// Refuses a user whom the caller does not administer. The answer is the same whether there is such a user or not.
    pub(super) fn check(&self, user: &str) -> Result<(), Status> {
        if self.has(user) {
            return Ok(());
        }
        Err(Status::permission_denied(format!("{user:?} is no user of the domain of this token")))
    }

    /// The domain that the caller administers. `None`: all domains.
    pub(super) fn domain(&self) -> Option<&str> {
        match self {
            Self::Operator => None,
            Self::Domain(own) => Some(own),
        }
    }
}

/// For the log.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::Domain(own) => write!(f, "domain {own:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use carillon_proto::{
        new_domain_token,
        pb::store::{Domain, DomainKey, RegistryView},
        peer::{PeerSecurity, Tier},
        token_hash,
    };
    use tonic::Code;

    use super::*;

    fn domain(name: &str, tokens: &[&String]) -> Domain {
        let key = |token: &&String| DomainKey { sha256: token_hash(token).to_vec().into(), created_ms: 1 };
        Domain { name: name.into(), keys: tokens.iter().map(key).collect(), ..Domain::default() }
    }

    fn scope_of(check: &mut CheckScope, token: &str) -> Result<Scope, Code> {
        let mut request = Request::new(());
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ascii"));
        let request = check.call(request).map_err(|status| status.code())?;
        Ok(request.extensions().get::<Scope>().cloned().expect("stored"))
    }

    #[test]
    fn a_token_is_the_operators_or_of_one_domain_and_counts_until_it_is_removed() {
        let [first, second, other] = [new_domain_token(), new_domain_token(), new_domain_token()];
        let view = |acme: &[&String]| {
            let domains = vec![domain("", &[&other]), domain("acme.example", acme)];
            Arc::new(Topology::new(RegistryView { domains, ..RegistryView::default() }, "r:1".into()))
        };
        let (publish, topology) = watch::channel(view(&[&first]));
        let security = PeerSecurity::from_secret(Tier::Router, "0123456789abcdef", None).expect("valid");
        let mut check = CheckScope { operator: security.check(&[Tier::Operator]), topology };
        let operator = carillon_proto::peer::derive("0123456789abcdef", Tier::Operator);
        let router = carillon_proto::peer::derive("0123456789abcdef", Tier::Router);
        let acme = Scope::Domain("acme.example".to_owned());
        assert_eq!(scope_of(&mut check, &operator), Ok(Scope::Operator));
        assert_eq!(scope_of(&mut check, &router), Err(Code::PermissionDenied));
        assert_eq!(scope_of(&mut check, &first), Ok(acme.clone()));
        assert_eq!(scope_of(&mut check, &other), Ok(Scope::Domain(String::new())));
        assert_eq!(scope_of(&mut check, &second), Err(Code::Unauthenticated));
        // Two count while one is replaced.
        publish.send_replace(view(&[&first, &second]));
        assert_eq!([&first, &second].map(|token| scope_of(&mut check, token)), [Ok(acme.clone()), Ok(acme.clone())]);
        publish.send_replace(view(&[&second]));
        assert_eq!(scope_of(&mut check, &first), Err(Code::Unauthenticated));
        assert_eq!(scope_of(&mut check, &second), Ok(acme));
    }

    #[test]
    fn administrators_have_the_groups_of_their_domain_alone() {
        let groups = ["club", "club@acme.example", "club@b.example", "club@acme.example.b", "", "@acme.example"];
        let had = |scope: &Scope| groups.map(|group| scope.check_group(group).is_ok());
        assert_eq!(had(&Scope::Operator), [true; 6]);
        assert_eq!(had(&Scope::Domain(String::new())), [true, false, false, false, false, false]);
        assert_eq!(had(&Scope::Domain("acme.example".to_owned())), [false, true, false, false, false, false]);
    }

    #[test]
    fn administrators_have_the_users_of_their_domain_alone() {
        let users =
            ["ann", "ann@acme.example", "ann@b.example", "ann@acme.example.b", "", "@acme.example", "Ann@acme.example"];
        let had = |scope: &Scope| users.map(|user| scope.has(user));
        assert_eq!(had(&Scope::Operator), [true; 7]);
        assert_eq!(had(&Scope::Domain(String::new())), [true, false, false, false, false, false, false]);
        let acme = Scope::Domain("acme.example".to_owned());
        assert_eq!(had(&acme), [false, true, false, false, false, false, false]);
    }
}

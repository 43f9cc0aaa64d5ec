//! The operator's settings of domains. See docs/adr/0036-domain-rules.md.

use std::sync::Arc;

use carillon_proto::{
    Level, ShardId, UserId,
    pb::{
        admin::{ListDomainsReply, SetDomainReply, SetDomainRequest, list_domains_reply::Row},
        store::{
            AccountCount, CountAccounts, DirectoryCommand, Domain, DomainKey, directory_command, store_request::Op,
        },
    },
};
use futures_util::future::try_join_all;
use tonic::Status;

use super::{Admin, failed, scope::Scope};
use crate::store::StoreAnswer;

impl Admin {
    pub(super) async fn decide_for_domain(&self, request: SetDomainRequest) -> Result<SetDomainReply, Status> {
        let (level, needed) = (Level(self.topology.borrow().view.level), Level::GROUPS);
        if level < needed {
            let why = format!("the cluster is at level {level}; limits and keys of domains need level {needed}");
            return Err(Status::failed_precondition(why));
        }
        let set = request.set.ok_or_else(|| Status::invalid_argument("the request sets nothing"))?;
        let name = set.name.clone();
        let op = Op::Directory(DirectoryCommand { op: Some(directory_command::Op::SetDomain(set)) });
        match self.call(ShardId::REGISTRY, op).await {
            Ok(StoreAnswer::Done(_)) => {
                tracing::info!(domain = name, "what is decided for a domain has changed");
                Ok(SetDomainReply {})
            }
            other => Err(failed(other)),
        }
    }

    /// As this router has heard of them.
    pub(super) async fn domains(&self, scope: &Scope) -> Result<ListDomainsReply, Status> {
        let topology = Arc::clone(&self.topology.borrow());
        let seen = topology.view.domains.iter().filter(|row| scope.domain().is_none_or(|own| own == row.name));
        // With those that name it.
        let seen = seen.map(|row| Domain { crosses_to: topology.domains.crossings_of(&row.name), ..row.clone() });
        let counted = try_join_all(seen.map(|row| async {
            let counts = match row.name.as_str() {
                "" => Vec::new(),
                name => try_join_all(self.directory_shards()?.into_iter().map(|shard| self.count(shard, name))).await?,
            };
            Ok::<_, Status>(Row { accounts: counts.iter().sum(), domain: Some(shown(row, scope)) })
        }));
        Ok(ListDomainsReply { domains: counted.await? })
    }

    /// The number of accounts of its domain that the shard of this user may have, so that all shards together have as many as the domain allows.
    /// `None`: any number.
    pub(super) async fn room_for(&self, user: &UserId) -> Result<Option<u64>, Status> {
        let Some(domain) = user.domain() else { return Ok(None) };
        let most = self.topology.borrow().domains.get(Some(domain)).map_or(0, |domain| domain.max_users);
        if most == 0 {
            return Ok(None);
        }
        let own = self.shards()?.directory_of(user);
        let others = self.directory_shards()?.into_iter().filter(|shard| *shard != own);
        let counts = try_join_all(others.map(|shard| self.count(shard, domain))).await?;
        Ok(Some(most.saturating_sub(counts.iter().sum())))
    }

    async fn count(&self, shard: ShardId, domain: &str) -> Result<u64, Status> {
        match self.call(shard, Op::CountAccounts(CountAccounts { domain: domain.to_owned() })).await {
            Ok(StoreAnswer::AccountCount(AccountCount { accounts })) => Ok(accounts),
            other => Err(failed(other)),
        }
    }
}

/// Administrators see how many keys there are and how old, and nothing by which the operator names them.
fn shown(row: Domain, scope: &Scope) -> Domain {
    if *scope == Scope::Operator {
        return row;
    }
    let keys = row.keys.iter().map(|key| DomainKey { created_ms: key.created_ms, ..DomainKey::default() }).collect();
    Domain { keys, ..row }
}

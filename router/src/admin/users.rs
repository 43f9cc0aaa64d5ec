//! Administration of accounts.

use carillon_proto::{
    now_ms,
    pb::{
        admin::{
            DeleteUserReply, DeleteUserRequest, ListUsersReply, ListUsersRequest, PutUserReply, PutUserRequest,
            RevokeTokensReply, RevokeTokensRequest, ShowUserReply, ShowUserRequest, UserInfo,
        },
        store::{
            Account, DeleteAccount, EndSessions, ListAccounts, PutAccount, RevokeTokens, User, directory_command,
            put_account, store_request::Op,
        },
    },
};
use tonic::Status;

use super::{Admin, PAGE, failed, scope::Scope, sessions::session_info, user_id};
use crate::store::StoreAnswer;

impl Admin {
    pub(super) async fn put_account(&self, request: PutUserRequest) -> Result<PutUserReply, Status> {
        let PutUserRequest { user, scram, replace } = request;
        let user = user_id(&user)?;
        let has_password = scram.is_some();
        let account = Account {
            user: user.as_str().to_owned(),
            scram,
            created_ms: self.made.next(now_ms()),
            ..Account::default()
        };
        let mode = if replace { put_account::Mode::Replace } else { put_account::Mode::Create };
        let most_accounts = self.room_for(&user).await?;
        let put =
            PutAccount { account: Some(account), mode: mode.into(), numbered: true, revive: false, most_accounts };
        let mut changed = self.change(&user, directory_command::Op::PutAccount(put)).await?;
        let mut all_over = Ok(());
        if replace && !has_password {
            // A shard below level 1 takes a replacement without a password for a repeat, which ends no session.
            let end = EndSessions { user: user.as_str().to_owned(), ..EndSessions::default() };
            match self.change(&user, directory_command::Op::EndSessions(end)).await {
                Ok(later) => changed = later,
                Err(error) => all_over = Err(error),
            }
        }
        let account = changed.account.unwrap_or_default();
        // Replacing the credentials ends the other sessions, whose messages must not be accepted any more. Their
        // connections are closed in any case.
        let fence = async { if replace { self.end_sender_if_read(&account).await } else { Ok(()) } };
        let (fenced, ended) = tokio::join!(fence, self.put_out(&user, &account, changed.over));
        all_over.and(fenced)?;
        Ok(PutUserReply { ended: Some(ended) })
    }

    pub(super) async fn delete_account(&self, request: DeleteUserRequest) -> Result<DeleteUserReply, Status> {
        let user = user_id(&request.user)?;
        let time_ms = if request.time_ms == 0 { now_ms() } else { request.time_ms };
        let delete = DeleteAccount { user: user.as_str().to_owned(), time_ms };
        let changed = self.change(&user, directory_command::Op::DeleteAccount(delete)).await?;
        let account = changed.account.unwrap_or_default();
        // Before the answer: from then on no message to this user is accepted, whatever a router has cached.
        let (inbox, ended) = tokio::join!(self.end_inbox(&account), self.put_out(&user, &account, changed.over));
        tracing::info!(%user, "user deleted");
        Ok(DeleteUserReply { ended: Some(ended), inbox_ended: inbox.is_ok() })
    }

    pub(super) async fn revoke(&self, request: RevokeTokensRequest) -> Result<RevokeTokensReply, Status> {
        let RevokeTokensRequest { user, before_ms, id, expires_ms } = request;
        let user = user_id(&user)?;
        let revoke = RevokeTokens { user: user.as_str().to_owned(), before_ms, id, expires_ms, time_ms: now_ms() };
        let changed = self.change(&user, directory_command::Op::RevokeTokens(revoke)).await?;
        let account = changed.account.unwrap_or_default();
        Ok(RevokeTokensReply { ended: Some(self.put_out(&user, &account, changed.over).await) })
    }

    pub(super) async fn show_account(&self, request: ShowUserRequest) -> Result<ShowUserReply, Status> {
        let user = user_id(&request.user)?;
        let User { account, sessions, .. } = self.read(&user).await?;
        let account = account.ok_or_else(|| Status::not_found(format!("there is no user {user}")))?;
        let topology = self.topology.borrow().clone();
        let sessions = sessions.iter().filter_map(|session| session_info(&topology, Some(&account), session));
        Ok(ShowUserReply { sessions: sessions.collect(), user: Some(user_info(&account)) })
    }

    pub(super) async fn list_accounts(
        &self,
        scope: &Scope,
        request: ListUsersRequest,
    ) -> Result<ListUsersReply, Status> {
        let ListUsersRequest { mut after, limit, deleted } = request;
        let limit = if limit == 0 { PAGE } else { limit.min(PAGE) };
        let listed = |account: &Account| deleted || !account.deleted;
        // An administrator of the default domain alone learns no name of another one, also not that at the end of a page.
        for _ in 0..LOOKS {
            let (accounts, more) = self.page_of_accounts(&after, limit, scope.domain().unwrap_or_default()).await?;
            let last = accounts.last().map(|last| last.user.clone());
            let seen: Vec<&Account> = accounts.iter().filter(|account| scope.has(&account.user)).collect();
            let next = if more { seen.last().map(|last| last.user.clone()) } else { Some(String::new()) };
            match next {
                Some(next) => {
                    let users = seen.into_iter().filter(|account| listed(account)).map(user_info).collect();
                    return Ok(ListUsersReply { users, next });
                }
                None => after = last.unwrap_or_default(),
            }
        }
        Err(Status::resource_exhausted("too many users of other domains stand before the next one of this domain"))
    }

    /// The first accounts after this one, and whether there are more. `domain`: as in `ListAccounts`.
    async fn page_of_accounts(&self, after: &str, limit: u32, domain: &str) -> Result<(Vec<Account>, bool), Status> {
        let mut accounts = Vec::new();
        let mut more = false;
        // Each shard returns its first rows; the first rows of all shards are among these.
        for shard in self.directory_shards()? {
            let (after_user, domain) = (after.to_owned(), domain.to_owned());
            let list = ListAccounts { after_user, limit, ending: false, domain };
            match self.call(shard, Op::ListAccounts(list)).await {
                Ok(StoreAnswer::AccountList(found)) => {
                    more |= !found.next_user.is_empty();
                    accounts.extend(found.accounts);
                }
                other => return Err(failed(other)),
            }
        }
        accounts.sort_unstable_by(|a, b| a.user.cmp(&b.user));
        more |= accounts.len() > limit as usize;
        accounts.truncate(limit as usize);
        Ok((accounts, more))
    }
}

/// Pages of users of other domains that one call reads.
const LOOKS: usize = 64;

fn user_info(account: &Account) -> UserInfo {
    UserInfo {
        user: account.user.clone(),
        created_ms: account.created_ms,
        password: account.scram.is_some(),
        deleted_ms: account.deleted_ms,
        deleted: account.deleted,
        tokens_from_ms: account.tokens_from_ms,
        revoked: account.revoked.clone(),
        reserved: account.reserved,
    }
}

//! Groups: rules, and reads. `timeline/groups.rs` carries changes out.

mod reader;
mod rules;

use carillon_proto::pb::store::rejected::Reason;

#[cfg(test)]
pub(super) use self::rules::MEMBERS;
pub(super) use self::{
    reader::Readable,
    rules::{
        Actor, Refused, changed, count, counted, expires_at_ms, founder, has_lost_its_owners, is_above, is_admin,
        is_told, may_delete, may_refer, may_set, readable_from, refused, set, stands, succession, written,
    },
};

/// The answer for a group that does not exist or does not show itself.
pub(super) fn no_group() -> Refused {
    refused(Reason::NotFound, rules::NO_GROUP)
}

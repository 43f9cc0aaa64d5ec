//! Requests for media, and their answers, as frames.

use bytes::Bytes;
use carillon_proto::pb::client::{MediaSlot, MediaUrl, RequestMediaSlot, RequestMediaUrl};

use crate::conversation::{Ask, SlotAsk, SlotTell, UrlAsk, UrlTell};

impl From<RequestMediaSlot> for Ask {
    fn from(RequestMediaSlot { request, size_bytes, media_type, name }: RequestMediaSlot) -> Self {
        Self::MediaSlot(Box::new(SlotAsk { request, size_bytes, media_type, name }))
    }
}

impl From<RequestMediaUrl> for Ask {
    fn from(RequestMediaUrl { request, id, timeline, seq }: RequestMediaUrl) -> Self {
        Self::MediaUrl(Box::new(UrlAsk { request, reference: id, timeline, seq }))
    }
}

pub(super) fn told_slot(SlotTell { request, reference, url, expires_ms }: SlotTell) -> MediaSlot {
    MediaSlot { request, id: Bytes::copy_from_slice(&reference.to_bytes()), url, expires_ms }
}

pub(super) fn told_url(UrlTell { request, url, expires_ms, size_bytes, media_type, name }: UrlTell) -> MediaUrl {
    MediaUrl { request, url, expires_ms, size_bytes, media_type, name }
}

//! The elements of SASL in a stream (RFC 6120, section 6.4).

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use zeroize::Zeroizing;

use super::Step;
use crate::{Element, error::SaslFailure, ns};

/// An element that a client sends. The data is overwritten when it is dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Request {
    /// `data` is `None`, if the element has no data: the client waits for a challenge.
    Auth {
        mechanism: String,
        data: Option<Zeroizing<Vec<u8>>>,
    },
    Response(Zeroizing<Vec<u8>>),
    Abort,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auth { mechanism, .. } => {
                f.debug_struct("Auth").field("mechanism", mechanism).finish_non_exhaustive()
            }
            Self::Response(_) => f.write_str("Response"),
            Self::Abort => f.write_str("Abort"),
        }
    }
}

impl Request {
    /// `None`: the element is not one of SASL.
    ///
    /// RFC 6120, section 6.3.5: "Any XML character data contained within the XML elements MUST be encoded using base 64, where the encoding
    /// adheres to the definition in Section 4 of \[BASE64\] and where the padding bits are set to zero." Section 6.4.2: "If the initiating
    /// entity needs to send a zero-length initial response, it MUST transmit the response as a single equals sign character ("=")".
    pub fn read(element: &Element) -> Option<Result<Self, SaslFailure>> {
        if element.namespace() != ns::SASL {
            return None;
        }
        let request = match element.name() {
            "auth" => {
                let mechanism = element.attribute("mechanism").unwrap_or_default().to_owned();
                data(element).map(|data| Self::Auth { mechanism, data })
            }
            "response" => data(element).map(|data| Self::Response(data.unwrap_or_default())),
            "abort" => Ok(Self::Abort),
            _ => return None,
        };
        Some(request)
    }
}

fn data(element: &Element) -> Result<Option<Zeroizing<Vec<u8>>>, SaslFailure> {
    let text = Zeroizing::new(element.text());
    match text.as_str() {
        "" => Ok(None),
        "=" => Ok(Some(Zeroizing::default())),
        text => BASE64_STANDARD
            .decode(text)
            .map(|data| Some(Zeroizing::new(data)))
            .map_err(|_| SaslFailure::IncorrectEncoding),
    }
}

impl Step {
    /// The element for the client. `None`: it is not told of this step.
    ///
    /// RFC 6120, section 6.4.6: "If the receiving entity needs to send additional data of zero length, it MUST transmit the data as a single
    /// equals sign character ("=")."
    pub fn element(&self) -> Option<Element> {
        match self {
            Self::Challenge(data) => Some(Element::new("challenge", ns::SASL).with_text(BASE64_STANDARD.encode(data))),
            Self::Success { data, .. } => {
                let success = Element::new("success", ns::SASL);
                Some(match data.as_deref() {
                    None => success,
                    Some([]) => success.with_text("="),
                    Some(data) => success.with_text(BASE64_STANDARD.encode(data)),
                })
            }
            Self::Failure(failure) => Some(failure.element()),
            Self::Keys { .. } | Self::Password { .. } | Self::Token { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Jid, sasl::Hash, stream::Limits};

    /// RFC 6120, section 6.3.5: "Any XML character data contained within the XML elements MUST be encoded using base 64 [...] where the padding
    /// bits are set to zero." Section 6.4.2: "it MUST transmit the response as a single equals sign character ("=")". Section 6.4.6: "it MUST transmit the
    /// data as a single equals sign character ("=")".
    #[test]
    fn elements_of_sasl_have_base64() {
        let read = |text: &str| Request::read(&Element::parse(text, &Limits::default()).expect("valid"));
        let sasl = |name: &str, text: &str| {
            format!("<{name} xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{text}</{name}>")
        };
        let auth = |data: Option<&[u8]>| {
            let data = data.map(|data| data.to_vec().into());
            Some(Ok(Request::Auth { mechanism: "PLAIN".to_owned(), data }))
        };
        assert_eq!(read(&sasl("auth", "AGp1bGlldABwZW5jaWw=")), auth(Some(b"\0juliet\0pencil")));
        assert_eq!((read(&sasl("auth", "=")), read(&sasl("auth", ""))), (auth(Some(b"")), auth(None)));
        assert_eq!(read(&sasl("response", "AQ==")), Some(Ok(Request::Response(vec![1].into()))));
        assert_eq!(read(&sasl("response", "")), Some(Ok(Request::Response(Vec::new().into()))));
        assert_eq!(read(&sasl("abort", "")), Some(Ok(Request::Abort)));
        for wrong in ["AQ", "AR==", "!", "A Q==", "AQ==\n", "=="] {
            assert_eq!(read(&sasl("auth", wrong)), Some(Err(SaslFailure::IncorrectEncoding)), "{wrong}");
        }
        assert_eq!((read("<auth xmlns='urn:x'/>"), read(&sasl("other", ""))), (None, None));
        let text = |step: Step| step.element().map(|element| element.text());
        let user = Jid::new("a@b").expect("valid");
        assert_eq!(text(Step::Challenge(vec![1])).as_deref(), Some("AQ=="));
        assert_eq!(text(Step::Success { user: user.clone(), data: None }).as_deref(), Some(""));
        assert_eq!(text(Step::Success { user: user.clone(), data: Some(Vec::new()) }).as_deref(), Some("="));
        assert_eq!(text(Step::Success { user: user.clone(), data: Some(vec![1]) }).as_deref(), Some("AQ=="));
        assert_eq!(text(Step::Keys { user, hash: Hash::Sha1 }), None);
    }
}

//! Pages of a long result (XEP-0059).

use crate::{Element, error::StanzaCondition};

pub const NAMESPACE: &str = "http://jabber.org/protocol/rsm";

/// The longest id of an item, in bytes.
pub const MAX_ID_BYTES: usize = 1024;

/// The part of a result that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Most items. `None`: as many as the server likes. With 0 only their number is asked for (section 2.7).
    pub max: Option<u32>,
    pub place: Place,
}

/// The place of a page in a result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Place {
    /// At the beginning.
    #[default]
    First,
    /// Behind the item of this id.
    After(String),
    /// Before the item of this id.
    Before(String),
    /// At the end.
    Last,
    /// At the item of this number, from 0 on.
    Index(u32),
}

/// A request that names no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPage {
    #[error("a number is not one from 0 to 2147483647")]
    Number,
    #[error("an id is longer than 1024 bytes")]
    Id,
    #[error("the place of the page or its length is named twice")]
    Twice,
}

impl InvalidPage {
    /// The error for the sender.
    pub fn stanza_condition(self) -> StanzaCondition {
        StanzaCondition::BadRequest
    }
}

impl PageRequest {
    /// Reads `<set/>`. `None` if the element is another one.
    ///
    /// An empty `<after/>` is the beginning, as an empty `<before/>` is the end (section 2.5).
    pub fn read(set: &Element) -> Option<Result<Self, InvalidPage>> {
        set.is("set", NAMESPACE).then(|| Self::of(set))
    }

    fn of(set: &Element) -> Result<Self, InvalidPage> {
        let (mut max, mut place) = (None, None);
        for child in set.children().filter(|child| child.namespace() == NAMESPACE) {
            let is_second = match child.name() {
                "max" => max.replace(number(child)?).is_some(),
                "after" => place.replace(id(child)?.map_or(Place::First, Place::After)).is_some(),
                "before" => place.replace(id(child)?.map_or(Place::Last, Place::Before)).is_some(),
                "index" => place.replace(Place::Index(number(child)?)).is_some(),
                _ => false,
            };
            if is_second {
                return Err(InvalidPage::Twice);
            }
        }
        Ok(Self { max, place: place.unwrap_or_default() })
    }

    /// `<set/>` for a question.
    pub fn element(&self) -> Element {
        let mut set = Element::new("set", NAMESPACE);
        if let Some(max) = self.max {
            set = set.with_child(text("max", max));
        }
        match &self.place {
            Place::First => set,
            Place::After(id) => set.with_child(text("after", id)),
            Place::Before(id) => set.with_child(text("before", id)),
            Place::Last => set.with_child(Element::new("before", NAMESPACE)),
            Place::Index(index) => set.with_child(text("index", index)),
        }
    }
}

/// The part of a result that was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The ids of the first and the last item. `None`: the page is empty.
    pub ids: Option<(String, String)>,
    /// The number of the first item in the whole result, from 0 on, if it is known.
    pub index: Option<u32>,
    /// The number of all items, if it is known.
    pub count: Option<u32>,
}

impl Page {
    /// `<set/>` for an answer.
    ///
    /// XEP-0059, section 2.2: "in each page it returns, the responding entity MUST include \<first/\> and \<last/\> elements that specify the
    /// unique ID (UID) for the first and last items in the page". An empty page has none (its example of an empty page).
    pub fn element(&self) -> Element {
        let mut set = Element::new("set", NAMESPACE);
        if let Some((first, last)) = &self.ids {
            let mut first = text("first", first);
            if let Some(index) = self.index {
                first = first.with("index", index.to_string());
            }
            set = set.with_child(first).with_child(text("last", last));
        }
        match self.count {
            Some(count) => set.with_child(text("count", count)),
            None => set,
        }
    }

    /// Reads `<set/>` of an answer. `None` if the element is another one.
    pub fn read(set: &Element) -> Option<Result<Self, InvalidPage>> {
        set.is("set", NAMESPACE).then(|| {
            let child = |name| set.child(name, NAMESPACE);
            let (first, last) = (child("first"), child("last"));
            let index = first.and_then(|first| first.attribute("index")).map(parse).transpose()?;
            let count = child("count").map(number).transpose()?;
            let ids = match (first, last) {
                (Some(first), Some(last)) => id(first)?.zip(id(last)?),
                _ => None,
            };
            Ok(Self { ids, index, count })
        })
    }
}

fn text(name: &'static str, text: impl ToString) -> Element {
    Element::new(name, NAMESPACE).with_text(text.to_string())
}

/// The id in an element. `None`: it is empty.
fn id(element: &Element) -> Result<Option<String>, InvalidPage> {
    let id = element.text();
    if id.len() > MAX_ID_BYTES {
        return Err(InvalidPage::Id);
    }
    Ok(Some(id).filter(|id| !id.is_empty()))
}

fn number(element: &Element) -> Result<u32, InvalidPage> {
    parse(element.text().trim_matches([' ', '\t', '\r', '\n']))
}

/// A number of the type `xs:int` that is not negative.
fn parse(text: &str) -> Result<u32, InvalidPage> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok());
    number.filter(|_| is_number).ok_or(InvalidPage::Number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::stream::Limits;

    fn read(inside: &str) -> Result<PageRequest, InvalidPage> {
        let text = format!("<set xmlns='http://jabber.org/protocol/rsm'>{inside}</set>");
        PageRequest::read(&Element::parse(&text, &Limits::default()).expect("valid")).expect("a set")
    }

    /// XEP-0059, section 2: the questions of its examples.
    #[test]
    fn a_page_is_named_by_one_place() {
        let of = |max, place| Ok(PageRequest { max, place });
        for (inside, expected) in [
            ("", of(None, Place::First)),
            ("<max>10</max>", of(Some(10), Place::First)),
            (
                "<max>10</max><after>peterpan@neverland.lit</after>",
                of(Some(10), Place::After("peterpan@neverland.lit".into())),
            ),
            (
                "<max> 10\n</max><before>peter@pixyland.org</before>",
                of(Some(10), Place::Before("peter@pixyland.org".into())),
            ),
            ("<before/><max>10</max>", of(Some(10), Place::Last)),
            ("<max>10</max><index>371</index>", of(Some(10), Place::Index(371))),
            ("<max>0</max>", of(Some(0), Place::First)),
            ("<after/>", of(None, Place::First)),
            ("<max>2147483647</max><max xmlns='urn:x'>x</max><other/>", of(Some(2_147_483_647), Place::First)),
            ("<max>x</max>", Err(InvalidPage::Number)),
            ("<max/>", Err(InvalidPage::Number)),
            ("<max>-1</max>", Err(InvalidPage::Number)),
            ("<max>+1</max>", Err(InvalidPage::Number)),
            ("<max>2147483648</max>", Err(InvalidPage::Number)),
            ("<index>1.5</index>", Err(InvalidPage::Number)),
            ("<max>1</max><max>1</max>", Err(InvalidPage::Twice)),
            ("<after>a</after><before>b</before>", Err(InvalidPage::Twice)),
            ("<before/><index>1</index>", Err(InvalidPage::Twice)),
            (&format!("<after>{}</after>", "x".repeat(1025)), Err(InvalidPage::Id)),
        ] {
            assert_eq!(read(inside), expected, "{inside}");
        }
        assert_eq!(PageRequest::read(&Element::new("set", "urn:x")), None);
        assert_eq!(InvalidPage::Id.stanza_condition(), StanzaCondition::BadRequest);
    }

    /// XEP-0059, section 2.2: "the responding entity MUST include \<first/\> and \<last/\> elements"; section 2.7 has an answer without items.
    #[test]
    fn an_answer_names_its_first_and_its_last_item() {
        let ids = Some(("stpeter@jabber.org".to_owned(), "peterpan@neverland.lit".to_owned()));
        let page = Page { ids, index: Some(0), count: Some(800) };
        assert_eq!(
            page.element().to_string(),
            "<set xmlns='http://jabber.org/protocol/rsm'><first index='0'>stpeter@jabber.org</first>\
             <last>peterpan@neverland.lit</last><count>800</count></set>"
        );
        assert_eq!(
            Page { count: Some(0), ..Page::default() }.element().to_string(),
            "<set xmlns='http://jabber.org/protocol/rsm'><count>0</count></set>"
        );
        assert_eq!(Page::read(&Element::new("set", "urn:x")), None);
        let wrong = Element::new("set", NAMESPACE).with_child(text("count", "many"));
        assert_eq!(Page::read(&wrong), Some(Err(InvalidPage::Number)));
    }

    proptest! {
        #[test]
        fn pages_are_read_as_they_were_written(
            max in prop::option::of(0..=i32::MAX as u32), kind in 0..5usize, id in "\\PC{1,20}", last in "\\PC{1,20}", index in 0..9u32,
            count in prop::option::of(0..=i32::MAX as u32),
        ) {
            let places = [Place::First, Place::After(id.clone()), Place::Before(id.clone()), Place::Last, Place::Index(index)];
            let request = PageRequest { max, place: places[kind].clone() };
            prop_assert_eq!(PageRequest::read(&request.element()), Some(Ok(request)));
            let page = Page { ids: (kind > 0).then_some((id, last)), index: (kind > 1).then_some(index), count };
            prop_assert_eq!(Page::read(&page.element()), Some(Ok(page)));
        }
    }
}

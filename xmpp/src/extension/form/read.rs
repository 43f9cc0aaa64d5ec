//! Forms of elements.

use super::{Choice, Field, FieldType, Form, FormType, InvalidForm, MAX_FIELDS, MAX_VALUES, NAMESPACE};
use crate::Element;

/// The number of fields and values that may still come.
struct Room {
    fields: usize,
    values: usize,
}

impl Form {
    /// Reads `<x/>`. `None` if the element is another one.
    pub fn read(element: &Element) -> Option<Result<Self, InvalidForm>> {
        element.is("x", NAMESPACE).then(|| Self::of_element(element))
    }

    fn of_element(element: &Element) -> Result<Self, InvalidForm> {
        let given = element.attribute("type").unwrap_or_default();
        let form_type = FormType::ALL.iter().copied().find(|form_type| form_type.name() == given);
        let mut form = Self::new(form_type.ok_or(InvalidForm::Type)?);
        let mut room = Room { fields: MAX_FIELDS, values: MAX_VALUES };
        for child in element.children().filter(|child| child.namespace() == NAMESPACE) {
            match child.name() {
                "title" => form.title = Some(child.text()),
                "instructions" => form.instructions.push(child.text()),
                "field" => form.fields.push(Field::read(child, &mut room)?),
                "reported" => form.reported = fields(child, &mut room)?,
                "item" => form.items.push(fields(child, &mut room)?),
                _ => {}
            }
        }
        check_names(&form.fields)?;
        check_names(&form.reported)?;
        form.items.iter().try_for_each(|item| check_names(item))?;
        Ok(form)
    }
}

fn fields(element: &Element, room: &mut Room) -> Result<Vec<Field>, InvalidForm> {
    element.children().filter(|child| child.is("field", NAMESPACE)).map(|field| Field::read(field, room)).collect()
}

/// XEP-0004, section 3.2: the attribute 'var' "uniquely identifies the field in the context of the form".
fn check_names(fields: &[Field]) -> Result<(), InvalidForm> {
    let mut names: Vec<_> = fields.iter().filter_map(|field| field.var.as_deref()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(InvalidForm::Twice(pair[0].to_owned())),
        None => Ok(()),
    }
}

impl Field {
    fn read(element: &Element, room: &mut Room) -> Result<Self, InvalidForm> {
        room.fields = room.fields.checked_sub(1).ok_or(InvalidForm::Fields)?;
        // XEP-0004, section 3.3, of text-single: it "MUST be assumed if a form-submitting entity receives a field type it does not
        // understand".
        let of_name = |name: &str| FieldType::ALL.iter().copied().find(|field_type| field_type.name() == name);
        let field_type = element.attribute("type").map(|name| of_name(name).unwrap_or(FieldType::TextSingle));
        let var = element.attribute("var");
        // XEP-0004, section 3.2: "If the \<field/\> element type is anything other than "fixed" [...], it MUST possess a 'var' attribute".
        if var.is_none() && field_type != Some(FieldType::Fixed) {
            return Err(InvalidForm::NoName);
        }
        let mut field = Self {
            var: var.map(str::to_owned),
            field_type,
            label: element.attribute("label").map(str::to_owned),
            ..Self::untyped("")
        };
        for child in element.children().filter(|child| child.namespace() == NAMESPACE) {
            match child.name() {
                "desc" => field.description = Some(child.text()),
                "required" => field.is_required = true,
                "value" => field.values.push(value(child, room)?),
                // XEP-0004, section 3.2: "The \<option/\> element MUST contain one and only one \<value/\> child."
                "option" => {
                    let mut values = child.children().filter(|child| child.is("value", NAMESPACE));
                    let (Some(first), None) = (values.next(), values.next()) else {
                        return Err(InvalidForm::Option(field.var.unwrap_or_default()));
                    };
                    let label = child.attribute("label").map(str::to_owned);
                    field.choices.push(Choice { label, value: value(first, room)? });
                }
                _ => {}
            }
        }
        Ok(field)
    }
}

fn value(element: &Element, room: &mut Room) -> Result<String, InvalidForm> {
    room.values = room.values.checked_sub(1).ok_or(InvalidForm::Values)?;
    Ok(element.text())
}

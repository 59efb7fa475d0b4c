//! Mistakes in the structure of the file (syntax, unknown keys, wrong types, missing keys), as TOML
//! and serde report them, put into the words of this configuration.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::problem::{ConfigErrors, Problem, Source};
use super::raw::RawConfig;

/// Reads the text into the known sections and keys.
pub(super) fn structure(text: &str, path: &Path) -> Result<RawConfig, ConfigErrors> {
    let source = Source { text, path };
    let document = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        source.problem(&span, format!("not TOML: {}", error.message()), "mend the syntax")
    })?;
    let deserializer = toml::Deserializer::from(document.clone());
    RawConfig::deserialize(deserializer).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let place = Place::find(document.get_ref(), &span);
        problem(source, &span, &place, error.message()).into()
    })
}

/// The keys that lead to a place, outermost first.
struct Place(Vec<String>);

impl Place {
    fn find(table: &DeTable<'_>, span: &Range<usize>) -> Self {
        let mut keys = Vec::new();
        descend(table, span, &mut keys);
        Self(keys)
    }

    /// The section's header: `[node]`, `[[peer]]`, or the top of the file.
    fn section(&self) -> String {
        match self.0.first().map(String::as_str) {
            None => "the file".to_owned(),
            Some("peer") => "[[peer]]".to_owned(),
            Some(name) => format!("[{name}]"),
        }
    }

    /// `network.mtu`.
    fn key(&self) -> String {
        self.0.join(".")
    }
}

/// Finds the key whose name or value holds the span. A table's own span is only its header, so
/// every table is entered.
fn descend(table: &DeTable<'_>, span: &Range<usize>, keys: &mut Vec<String>) -> bool {
    let within = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    table.iter().any(|(key, value)| {
        keys.push(key.get_ref().to_string());
        let tables: Vec<&DeTable<'_>> = match value.get_ref() {
            DeValue::Table(table) => vec![table],
            DeValue::Array(list) => list.iter().filter_map(|item| item.get_ref().as_table()).collect(),
            _ => Vec::new(),
        };
        let found = tables.into_iter().any(|table| descend(table, span, keys))
            || within(key.span())
            || within(value.span())
            || list_items(value.get_ref()).any(within);
        if !found {
            keys.pop();
        }
        found
    })
}

/// Where the items of a list are. The span of an array of tables is its first header alone.
fn list_items<'a>(value: &'a DeValue<'_>) -> impl Iterator<Item = Range<usize>> + 'a {
    let items = match value {
        DeValue::Array(items) => Some(items),
        _ => None,
    };
    items.into_iter().flat_map(|items| items.iter().map(toml::Spanned::span))
}

/// Serde's messages are a fixed set of sentences with the names in backticks.
fn problem(source: Source<'_>, span: &Range<usize>, place: &Place, message: &str) -> Problem {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match (quoted.split_first(), message) {
        (Some((unknown, known)), _) if message.starts_with("unknown field") => {
            unknown_key(source, span, place, unknown, known)
        }
        (Some((missing, _)), _) if message.starts_with("missing field") => {
            missing_key(source, span, place, missing)
        }
        (Some((_, known)), _) if message.starts_with("unknown variant") => {
            let known: Vec<String> = known.iter().map(|value| format!("\"{value}\"")).collect();
            let reason = format!("`{}` has an unknown value", place.key());
            source.problem(span, reason, format!("use {}", known.join(", ")))
        }
        _ => wrong_type(source, span, place, message),
    }
}

fn unknown_key(
    source: Source<'_>,
    span: &Range<usize>,
    place: &Place,
    unknown: &str,
    known: &[&str],
) -> Problem {
    let top_level = known.contains(&"node");
    let (reason, bracket) = if top_level {
        (format!("unknown section or key `{unknown}`"), true)
    } else {
        (format!("unknown key `{unknown}` in {}", place.section()), false)
    };
    let name = |key: &str| match key {
        "peer" if bracket => "[[peer]]".to_owned(),
        _ if bracket => format!("[{key}]"),
        _ => format!("`{key}`"),
    };
    let nearest = known
        .iter()
        .map(|key| (strsim::damerau_levenshtein(unknown, key), key))
        .filter(|(distance, key)| *distance <= key.len().div_ceil(3))
        .min();
    let advice = match nearest {
        Some((_, key)) => format!("did you mean {}?", name(key)),
        None => format!("known here: {}", known.iter().map(|key| name(key)).collect::<Vec<_>>().join(", ")),
    };
    source.problem(span, reason, advice)
}

fn missing_key(source: Source<'_>, span: &Range<usize>, place: &Place, missing: &str) -> Problem {
    if place.0.is_empty() {
        return source.problem(
            span,
            format!("section [{missing}] is missing"),
            "add it; `ipopctl init` writes an example",
        );
    }
    let reason = format!("{} lacks the key `{missing}`", place.section());
    source.problem(span, reason, format!("add `{missing} = ...`"))
}

fn wrong_type(source: Source<'_>, span: &Range<usize>, place: &Place, message: &str) -> Problem {
    let key = place.key();
    let (wanted, advice) = match message.rsplit_once(", expected ") {
        _ if place.0.len() == 1 && key == "peer" => {
            ("one or more sections", "write [[peer]], in two pairs of brackets")
        }
        _ if place.0.len() == 1 => ("a section", "write it as a [section] of its own"),
        Some((_, "a string")) => ("a string", "put the value in quotes"),
        Some((_, "a sequence")) => ("a list", "put the value in [ ]"),
        Some((_, wanted)) => (wanted, "mend the value"),
        None => ("a string", "put the value in quotes"),
    };
    source.problem(span, format!("`{key}` must be {wanted}"), advice)
}

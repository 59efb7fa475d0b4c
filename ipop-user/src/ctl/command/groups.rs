//! `ipopctl groups`.

use crate::api::{Group, GroupLink, Groups, NodeRef};
use crate::ctl::format::{Align, count, table};

pub(in crate::ctl) fn render(groups: &Groups, width: u16) -> String {
    if let Some(reason) = &groups.reason {
        return format!("packets to groups are not carried: {reason}\n");
    }
    if groups.groups.is_empty() {
        return "no groups; programs of this host join them on the virtual device\n".to_owned();
    }
    let headings =
        [("group", Align::Left), ("here", Align::Left), ("parent", Align::Left), ("children", Align::Left)];
    let mut text = table(&headings, groups.groups.iter().map(row), width);
    if !groups.links.is_empty() {
        let headings = [("connection", Align::Left), ("sent", Align::Right), ("received", Align::Right)];
        text.push('\n');
        text.push_str(&table(&headings, groups.links.iter().map(link), width));
    }
    text
}

fn row(group: &Group) -> Vec<String> {
    let parent = match &group.parent {
        Some(parent) => parent.label(),
        None if group.root => "none: the root".to_owned(),
        None => "looked for".to_owned(),
    };
    let children: Vec<String> = group.children.iter().map(NodeRef::label).collect();
    let here = if group.member { "member" } else { "on the way" };
    vec![group.group.clone(), here.to_owned(), parent, children.join(", ")]
}

fn link(link: &GroupLink) -> Vec<String> {
    vec![link.node.label(), count(link.sent as f64), count(link.received as f64)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake;

    #[test]
    fn groups_fit_80_columns() {
        let expected = "\
GROUP        HERE        PARENT          CHILDREN
224.0.0.251  member      beta            gamma
ff02::fb     on the way  none: the root  beta, gamma
all          member      looked for

CONNECTION   SENT  RECEIVED
beta        12.0k         7
";
        let rendered = render(&fake::groups(), 80);
        let trimmed: Vec<&str> = rendered.lines().map(str::trim_end).collect();
        assert_eq!(trimmed.join("\n") + "\n", expected);
    }

    #[test]
    fn why_there_are_none_is_said() {
        let none = Groups { reason: None, groups: Vec::new(), links: Vec::new() };
        assert_eq!(render(&none, 80), "no groups; programs of this host join them on the virtual device\n");
        let off = Groups { reason: Some("network.multicast is false".to_owned()), ..none };
        assert_eq!(render(&off, 80), "packets to groups are not carried: network.multicast is false\n");
    }
}

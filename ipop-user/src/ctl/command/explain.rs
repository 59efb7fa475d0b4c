//! `ipopctl explain PEER`.

use crate::api::Explanation;
use crate::ctl::format::{Align, paragraph, table};

pub(in crate::ctl) fn render(explanation: &Explanation, width: u16) -> String {
    let headings = [("check", Align::Left), ("", Align::Left), ("detail", Align::Left)];
    let rows = explanation.steps.iter().map(|step| {
        vec![step.check.clone(), if step.ok { "ok" } else { "NO" }.to_owned(), step.detail.clone()]
    });
    let steps = table(&headings, rows, width);
    let verdict = paragraph(&explanation.verdict, width);
    format!("{}: {}\n{verdict}\n{steps}", explanation.peer, explanation.path.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fake;

    #[test]
    fn the_verdict_comes_before_the_steps() {
        let expected = "\
beta: direct-user
packets to beta take the user path, because its MTU is not known yet

CHECK        DETAIL
trusted  ok  10.200.0.1 and 10.200.0.2 lie in 10.200.0.0/24
mtu      NO  no probe has come back
";
        assert_eq!(render(&fake::explanation(), 80), expected);
    }
}

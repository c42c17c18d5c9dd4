//! Policy rules. A rule is ours when priority, selector and action are all exactly what we make; a foreign rule at one of our
//! priorities stays.

use std::fmt;

use anyhow::Context as _;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use redirect_common::names::{Mark, RulePriority, TABLE_SEAT_A, TABLE_SEAT_B, TableId};

use super::Context;
use super::ledger::{Kind, NOTHING};
use crate::kernel::netlink::Netlink;

/// An IPv4 policy rule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Rule {
    pub(crate) priority: RulePriority,
    /// `None` selects every packet.
    pub(crate) mark: Option<Mark>,
    pub(crate) action: Action,
}

/// What a rule does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Action {
    /// Looks the table up.
    Lookup(TableId),
    /// Goes on at a later rule.
    Goto(RulePriority),
}

/// As `ip rule` takes it.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: from all", self.priority.0)?;
        if let Some(mark) = self.mark {
            write!(f, " fwmark {mark}")?;
        }
        match self.action {
            Action::Lookup(table) => write!(f, " lookup {}", table.0),
            Action::Goto(priority) => write!(f, " goto {}", priority.0),
        }
    }
}

/// Makes the `desired` rules stand and removes those of `owned` that are not desired. A way back to one ztunnel of two that would lead to where
/// somebody else's route says is not opened: without it answers go the usual way.
pub(crate) fn converge(context: &mut Context<'_>, desired: &[Rule], owned: &[Rule]) -> anyhow::Result<()> {
    let observed = observe(context.netns.netlink())?;
    for rule in owned.iter().filter(|rule| observed.contains(rule) && !desired.contains(rule)) {
        let outcome = send(context.netns.netlink(), *rule, Operation::Delete);
        context.ledger.book(Kind::Rule, &rule.to_string(), "deleted", outcome);
    }
    let netns = context.netns.id();
    for rule in desired.iter().filter(|rule| !observed.contains(rule)) {
        if let Action::Lookup(table @ (TABLE_SEAT_A | TABLE_SEAT_B)) = rule.action
            && context.ledger.occupied.contains(&(netns, table))
        {
            continue;
        }
        let outcome = send(context.netns.netlink(), *rule, Operation::Add);
        context.ledger.mend(Kind::Rule, &rule.to_string(), NOTHING, "added", outcome);
    }
    Ok(())
}

/// The rules that are of the shape we make; any other is left out.
fn observe(netlink: &mut Netlink) -> anyhow::Result<Vec<Rule>> {
    Ok(dump(netlink)?.iter().filter_map(parse).collect())
}

/// Every rule for IPv4.
fn dump(netlink: &mut Netlink) -> anyhow::Result<Vec<RuleMessage>> {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    let answers = netlink.dump(&RouteNetlinkMessage::GetRule(message)).context("list the policy rules")?;
    let rule = |answer| match answer {
        RouteNetlinkMessage::NewRule(message) => Some(message),
        _ => None,
    };
    Ok(answers.into_iter().filter_map(rule).collect())
}

/// A policy rule of somebody else's that looks at marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ForeignMark {
    priority: u32,
    value: u32,
    pub(crate) mask: u32,
}

/// As `ip rule` names it.
impl fmt::Display for ForeignMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { priority, value, mask } = self;
        write!(f, "{priority}: fwmark {value:#x}/{mask:#x}")
    }
}

/// All of them, whatever else they look at; `ours` are told by all that they are.
pub(crate) fn foreign_marks(netlink: &mut Netlink, ours: &[Rule]) -> anyhow::Result<Vec<ForeignMark>> {
    let is_ours = |message: &RuleMessage| parse(message).is_some_and(|rule| ours.contains(&rule));
    Ok(dump(netlink)?.iter().filter(|message| !is_ours(message)).filter_map(mark_of).collect())
}

fn mark_of(message: &RuleMessage) -> Option<ForeignMark> {
    let mut found = ForeignMark { priority: 0, value: 0, mask: 0 };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(number) => found.priority = *number,
            RuleAttribute::FwMark(bits) => found.value = *bits,
            RuleAttribute::FwMask(bits) => found.mask = *bits,
            _ => {}
        }
    }
    (found.mask != 0).then_some(found)
}

/// `None` for a rule with a selector or an action that ours never have.
fn parse(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    if header.flags.contains(RuleFlags::Invert)
        || header.family != AddressFamily::Inet
        || header.src_len != 0
        || header.dst_len != 0
        || header.tos != 0
    {
        return None;
    }
    let (mut priority, mut value, mut mask, mut table, mut goto) = (0, 0, None, u32::from(header.table), None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::FwMark(bits) => value = *bits,
            RuleAttribute::FwMask(bits) => mask = Some(*bits),
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::Goto(target) => goto = Some(RulePriority(*target)),
            // Present in every dump; all ones is "not set" (fib_nl_fill_rule, net/core/fib_rules.c).
            RuleAttribute::SuppressPrefixLen(u32::MAX) | RuleAttribute::Protocol(_) => {}
            _ => return None,
        }
    }
    let selector = mask.filter(|mask| *mask != 0).map(|mask| Mark::new(value & mask, mask));
    let action = match (header.action, goto) {
        (RuleAction::ToTable, None) => Action::Lookup(TableId(table)),
        (RuleAction::Goto, Some(target)) => Action::Goto(target),
        _ => return None,
    };
    Some(Rule { priority: RulePriority(priority), mark: selector, action })
}

#[derive(Clone, Copy)]
enum Operation {
    Add,
    Delete,
}

fn send(netlink: &mut Netlink, rule: Rule, operation: Operation) -> anyhow::Result<()> {
    let message = build(rule);
    match operation {
        Operation::Add => netlink.request(RouteNetlinkMessage::NewRule(message), NLM_F_CREATE | NLM_F_EXCL)?,
        Operation::Delete => match netlink.request(RouteNetlinkMessage::DelRule(message), 0) {
            // Somebody was faster.
            Err(error) if error.is(Errno::ENOENT) => Vec::new(),
            other => other?,
        },
    };
    Ok(())
}

fn build(rule: Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    // No protocol, as `ip rule add` gives none: `ip rule list` would print it.
    message.attributes = vec![RuleAttribute::Priority(rule.priority.0)];
    if let Some(mark) = rule.mark {
        message.attributes.extend([RuleAttribute::FwMark(mark.value()), RuleAttribute::FwMask(mark.mask())]);
    }
    match rule.action {
        Action::Lookup(table) => {
            message.header.action = RuleAction::ToTable;
            message.attributes.push(RuleAttribute::Table(table.0));
        }
        Action::Goto(target) => {
            message.header.action = RuleAction::Goto;
            message.attributes.push(RuleAttribute::Goto(target.0));
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use redirect_common::names::{OUTBOUND, RULE_MAIN, RULE_OUTBOUND, RULE_SKIP, SKIP, TABLE_OUTBOUND};

    const LOOKUP: Rule = Rule { priority: RULE_OUTBOUND, mark: Some(OUTBOUND), action: Action::Lookup(TABLE_OUTBOUND) };
    const SKIP_ALL: Rule = Rule { priority: RULE_SKIP, mark: Some(SKIP), action: Action::Goto(RULE_MAIN) };

    #[test]
    fn what_we_build_is_what_we_recognise() {
        for rule in [LOOKUP, SKIP_ALL, Rule { mark: None, ..LOOKUP }] {
            assert_eq!(parse(&build(rule)), Some(rule));
        }
    }

    #[test]
    fn a_rule_with_another_selector_is_not_ours() {
        let mut message = build(LOOKUP);
        message.attributes.push(RuleAttribute::Iifname("eth7".into()));
        assert_eq!(parse(&message), None);
        let mut message = build(LOOKUP);
        message.header.src_len = 32;
        assert_eq!(parse(&message), None);
    }

    #[test]
    fn printed_as_ip_rule_prints_it() {
        assert_eq!(LOOKUP.to_string(), "101: from all fwmark 0x100/0x100 lookup 101");
        assert_eq!(SKIP_ALL.to_string(), "100: from all fwmark 0x200/0x200 goto 32766");
    }
}

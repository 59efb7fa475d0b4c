//! A peer that is there and does not answer by its own way.

use super::*;

const WAY: PeerId = PeerId(0);
const ROUND: PeerId = PeerId(1);

/// A member of a ring with two peers: one to which the way will be broken, and one by which it is reached too.
struct Member {
    node: Node,
    now: Instant,
}

impl Member {
    fn new() -> Self {
        let now = Instant::from_nanos(5);
        let mut node = member(0, 1, 1000, now);
        let other = PeerConfig { public_key: key(2), endpoint: Some(address(2).into()), is_found: true };
        assert_eq!(node.add_peer(&other, now), Ok(ROUND));
        node.handle_command(Command::Underlay { peer: ROUND, reach: Some((address(0).ip(), 1464)) }, now);
        for peer in [WAY, ROUND] {
            node.handle_command(Command::Session { peer, local_index: Some(1) }, now);
            // A beat that says that this node is a neighbour.
            let beat = [2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(node.handle_message(peer, &beat, now), Ok(()));
        }
        let mut member = Self { node, now };
        member.pass(Duration::from_millis(1));
        member.hear_hello();
        member
    }

    fn drain(&mut self) -> Vec<Output> {
        core::iter::from_fn(|| self.node.poll_output()).collect()
    }

    /// What the node wants done until so long has passed.
    fn pass(&mut self, time: Duration) -> Vec<Output> {
        let end = self.now.after(time);
        let mut outputs = Vec::new();
        while let Some((at, _)) = self.node.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.node.handle_timeout(self.now);
            outputs.extend(self.drain());
        }
        self.now = end;
        outputs
    }

    /// The peer says hello, by whatever way.
    fn hear_hello(&mut self) {
        let hello = Hello {
            clear: None,
            boot: 7,
            sent_ns: self.now.as_nanos(),
            echo_boot: 1000,
            echo_sent_ns: self.now.as_nanos() - 1000,
            echo_delay_ns: 0,
            kernel_port: 0,
            lease_s: 90,
            mtu: 0,
            answer: false,
        };
        assert_eq!(self.node.handle_message(WAY, &hello.to_bytes(), self.now), Ok(()));
    }

    fn see(&mut self, has_gone: bool, has_come: bool) {
        self.node.see(WAY, has_gone, has_come, self.now);
    }
}

/// Hellos to the peer in doubt.
fn hellos(outputs: &[Output]) -> usize {
    let is_one = |output: &&Output| matches!(output, Output::Say { peer: WAY, message } if message.first() == Some(&hello::TYPE));
    outputs.iter().filter(is_one).count()
}

/// The echoes that go round to the peer in doubt.
fn echoes(outputs: &[Output]) -> Vec<Vec<u8>> {
    let to = NodeAddress::of_key(&key(1));
    let is_one = |message: &[u8]| message.first() == Some(&4) && message.get(28..48) == Some(&to.0[..]);
    let echo = |output: &Output| match output {
        Output::Say { peer: ROUND, message } if is_one(message) => Some(message.clone()),
        _ => None,
    };
    outputs.iter().filter_map(echo).collect()
}

/// What the peer answers, as it comes by the other one.
fn answer(echo: &[u8]) -> Vec<u8> {
    let mut answer = echo.to_vec();
    let (source, destination) = (echo[8..28].to_vec(), echo[28..48].to_vec());
    answer[8..28].copy_from_slice(&destination);
    answer[28..48].copy_from_slice(&source);
    // It is an answer, and has been to one node.
    answer[48..52].copy_from_slice(&[1, 0, 0, 1]);
    answer
}

#[test]
fn who_answers_by_others_alone_is_reached_by_others() {
    let mut member = Member::new();
    member.pass(Duration::from_millis(1200));
    member.hear_hello();
    member.see(true, false);
    let quiet = member.pass(Duration::from_millis(390));
    assert!(echoes(&quiet).is_empty(), "nothing is wrong yet");
    let asked = member.pass(Duration::from_millis(300));
    assert!(hellos(&asked) >= 2 && echoes(&asked).is_empty(), "it is asked");
    let asked = member.pass(Duration::from_millis(300));
    let echoes = echoes(&asked);
    assert!(!echoes.is_empty(), "it is asked by others");
    assert!(!asked.contains(&Output::Unheard { peer: WAY }), "who have their time to answer");
    let _ = member.node.handle_message(ROUND, &answer(&echoes[0]), member.now);
    assert!(member.drain().contains(&Output::Silent { peer: WAY }));
    member.node.detour(WAY, member.now);
    let round = Endpoint::Overlay(NodeAddress::of_key(&key(1)));
    let outputs = member.drain();
    assert!(outputs.contains(&Output::Move { peer: WAY, to: round }), "{outputs:?}");
    assert!(!outputs.contains(&Output::Unlink { peer: WAY }), "the session goes on");
    assert!(!member.node.ring().unwrap().is_connected(NodeAddress::of_key(&key(1))));
    member.node.detour(WAY, member.now);
    assert_eq!(member.drain(), [], "once");
}

#[test]
fn who_answers_in_time_stays_where_it_is() {
    let mut member = Member::new();
    member.pass(Duration::from_millis(1500));
    member.see(true, false);
    let outputs = member.pass(Duration::from_millis(900));
    let echoes = echoes(&outputs);
    member.see(false, true);
    let _ = member.node.handle_message(ROUND, &answer(&echoes[0]), member.now);
    assert!(!member.drain().contains(&Output::Silent { peer: WAY }));
    member.node.detour(WAY, member.now);
    assert_eq!(member.drain(), []);
}

/// Who only receives finds out too that nothing comes any more, and by asking shows others where it is now.
#[test]
fn a_hello_without_an_answer_is_repeated_by_others() {
    let mut member = Member::new();
    let until_said = member.pass(Duration::from_millis(1200));
    assert!(hellos(&until_said) > 0 && echoes(&until_said).is_empty());
    member.hear_hello();
    let heard = member.pass(Duration::from_millis(500));
    assert!(echoes(&heard).is_empty(), "it has answered");
    let silent = member.pass(Duration::from_millis(1000));
    let echoes = echoes(&silent);
    assert!(!echoes.is_empty(), "the next one it has not");
    let _ = member.node.handle_message(ROUND, &answer(&echoes[0]), member.now);
    assert!(member.drain().contains(&Output::Silent { peer: WAY }));
}

#[test]
fn who_answers_in_no_way_is_for_the_ring_to_judge() {
    let mut member = Member::new();
    member.pass(Duration::from_millis(1500));
    member.see(true, false);
    let mut first = member.pass(Duration::from_secs(4));
    let unheard = first.iter().filter(|output| **output == Output::Unheard { peer: WAY }).count();
    assert_eq!(unheard, 1, "another transport may lead there");
    first.extend(member.pass(Duration::from_secs(2)));
    assert!(!echoes(&first).is_empty() && !first.iter().any(|o| matches!(o, Output::Move { .. })));
    let later = member.pass(Duration::from_secs(3));
    assert!(echoes(&later).is_empty(), "it is not asked for ever");
}

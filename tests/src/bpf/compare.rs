//! A program and the model on the same packet.

use std::fmt::Write as _;

use anyhow::Result;
use redirect_common::policy::{Row, Seat};

use super::model::Model;
use super::object::{Given, Object};
use super::program::Program;
use super::world::{self, World};

/// Connections after which both sides forget all: before the kernel's map is full and gives up some that the model keeps.
const MOST_REMEMBERED: usize = 16_384;
/// Wrong packets that are described.
const MOST_DESCRIBED: usize = 20;

/// Both, and what came of them so far.
#[derive(Debug)]
pub struct Comparison {
    object: Object,
    model: Model,
    seat: Seat,
    /// Packets that both were given.
    pub compared: usize,
    /// Packets that this kernel gives to no program in a test.
    pub refused: usize,
    /// How often they disagreed.
    pub disagreements: usize,
    /// The first disagreements.
    pub described: Vec<String>,
}

impl Comparison {
    /// On a node.
    pub fn new(world: World) -> Result<Self> {
        let mut object = Object::load()?;
        world.tell(&mut object)?;
        let (seat, model) = (world.here, Model::new(world));
        Ok(Self { object, model, seat, compared: 0, refused: 0, disagreements: 0, described: Vec::new() })
    }

    /// Has what comes from a ztunnel from now on come from the one on this seat.
    pub fn move_to(&mut self, seat: Seat) -> Result<()> {
        if self.seat == seat {
            return Ok(());
        }
        self.seat = seat;
        self.model.move_to(seat).configure(&mut self.object)
    }

    /// Gives both a packet; the row is the model's.
    pub fn packet(&mut self, program: Program, given: Given<'_>, name: impl FnOnce() -> String) -> Result<Option<Row>> {
        let Some(ran) = self.object.run(program, given)? else {
            self.refused += 1;
            return Ok(None);
        };
        let (expected, row) = self.model.run(program, given);
        self.compared += 1;
        if ran != expected {
            self.disagreements += 1;
            if self.described.len() < MOST_DESCRIBED {
                let (name, frame, mark) = (name(), hex(given.frame), given.mark);
                self.described.push(format!(
                    "{name}: {program} on mark {mark:#x}, frame {frame}: action {}, mark {:#x}, frame {}; the law's {row:?} \
                     is action {}, mark {:#x}, frame {}",
                    ran.action,
                    ran.mark,
                    changed(given.frame, &ran.frame),
                    expected.action,
                    expected.mark,
                    changed(given.frame, &expected.frame),
                ));
            }
        }
        if self.model.remembered() >= MOST_REMEMBERED {
            world::forget(&mut self.object)?;
            self.model.forget();
        }
        Ok(row)
    }

    /// Whether this kernel lets a test say where a packet arrived.
    pub fn can_say_where_packets_arrive(&self) -> Result<bool> {
        let given = Given { frame: &[0; 64], mark: 0, ingress: 1 };
        Ok(self.object.run(Program::Empty, given)?.is_some())
    }

    /// What both counted: the object's counters and the model's.
    pub fn counts(&self) -> Result<(Vec<u64>, Vec<u64>)> {
        Ok((self.object.counts()?, self.model.counts().to_vec()))
    }
}

fn changed(before: &[u8], after: &[u8]) -> String {
    if before == after { "as before".to_owned() } else { hex(after) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

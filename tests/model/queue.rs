//! SQS of the model: a few messages, each visible, held by a process, or on its way back.

use crate::judge::About;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Queue {
    pub messages: Vec<Message>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    pub about: About<u64>,
    pub place: Place,
    /// It was received before.
    pub received: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Visible,
    /// Received, and kept invisible, by the step's driver in this process; `deleting`: until it is deleted.
    Held {
        by: u8,
        deleting: bool,
    },
    /// Invisible, and nobody keeps it so.
    Returning,
    Gone,
}

impl Queue {
    pub fn send(&mut self, about: About<u64>) -> u64 {
        self.messages.push(Message { about, place: Place::Visible, received: false });
        self.messages.len() as u64 - 1
    }

    pub fn is_empty(&self) -> bool {
        self.messages.iter().all(|message| message.place == Place::Gone)
    }

    fn held_by(&mut self, w: usize) -> impl Iterator<Item = &mut Message> {
        let held = move |message: &&mut Message| matches!(message.place, Place::Held { by, deleting: false } if usize::from(by) == w);
        self.messages.iter_mut().filter(held)
    }

    pub fn delete_held(&mut self, w: usize) {
        self.held_by(w).for_each(|message| {
            if let Place::Held { deleting, .. } = &mut message.place {
                *deleting = true;
            }
        });
    }

    pub fn give_back(&mut self, w: usize) {
        self.held_by(w).for_each(|message| message.place = Place::Visible);
    }

    pub fn let_go(&mut self, w: usize) {
        self.held_by(w).for_each(|message| message.place = Place::Returning);
    }

    /// The process is gone, and with it whoever kept its messages invisible.
    pub fn abandoned_by(&mut self, w: usize) {
        for message in &mut self.messages {
            if matches!(message.place, Place::Held { by, .. } if usize::from(by) == w) {
                message.place = Place::Returning;
            }
        }
    }
}

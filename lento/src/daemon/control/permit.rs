//! `lento permit`: the right to modify is given back, or taken from a client that is away.

use crate::daemon::error::{failed, hinted, no_fileset};
use crate::daemon::mind::Mind;
use lento_cli::control::{ControlEvent, Failure, PermitAction};
use lento_core::{Event, PrestoEvent};
use protocol::{FileSetId, FileSetName};

impl Mind {
    pub(super) fn permit(&mut self, name: &FileSetName, action: PermitAction) -> ControlEvent {
        let done = self.by_name(name).ok_or_else(|| no_fileset(name)).and_then(|id| match action {
            PermitAction::Release => self.release(id, name),
            PermitAction::Break => self.break_permit(id, name),
        });
        match done {
            Ok(text) => ControlEvent::Done(Some(text)),
            Err(failure) => ControlEvent::Failed(failure),
        }
    }

    fn release(&mut self, id: FileSetId, name: &FileSetName) -> Result<String, Failure> {
        let status = self.engine.status(id).ok_or_else(|| failed("its store is not open"))?;
        if status.holder == self.identity.host {
            return Err(failed(format!("this host holds {name}: it gives the permit to whoever asks")));
        }
        if status.permit.here.is_none() {
            return Ok(format!("the permit of {name} is not here"));
        }
        self.tell(Event::Presto { fileset: id, event: PrestoEvent::Tires });
        Ok(format!("the permit of {name} goes back when all that was written is sent"))
    }

    fn break_permit(&mut self, id: FileSetId, name: &FileSetName) -> Result<String, Failure> {
        let status = self.engine.status(id).ok_or_else(|| failed("its store is not open"))?;
        let Some(owner) = status.permit.owner else {
            return Err(hinted(
                format!("this host does not hold {name}"),
                "do it on the host that `lento status` names",
            ));
        };
        if owner == self.identity.host {
            return Ok(format!("the permit of {name} is at home"));
        }
        let owner_name = self.host_name(owner);
        if !self.is_client(id, owner) {
            return Err(hinted(
                format!("{owner_name} has the permit, and stores {name}: what it has written is not given up"),
                "connect it, or remove it there with `lento fileset remove --force`",
            ));
        }
        self.tell(Event::PermitBroken { fileset: id });
        Ok(format!("the permit was taken from {owner_name}; what it had not sent it keeps aside"))
    }
}

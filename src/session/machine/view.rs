//! Owns what people see of a machine: state, reason, number, code, and when it wants to be woken.

use super::{
    About, Code, Instant, LinkRow, Linking, Machine, Now, PairingCode, Phase, Qr, Stage, State,
    UnixMs,
};

impl Machine {
    pub(in crate::session) fn row(&self) -> Option<&LinkRow> {
        self.row.as_ref()
    }

    pub(in crate::session) fn state(&self) -> State {
        state_of(&self.phase)
    }

    pub(in crate::session) fn reason(&self) -> Option<Code> {
        match visible(&self.phase) {
            Phase::Rest(rest) => rest.reason,
            _ => None,
        }
    }

    pub(in crate::session) fn until(&self) -> Option<UnixMs> {
        match visible(&self.phase) {
            Phase::Rest(rest) => rest.until,
            Phase::Linked {
                stage: Stage::Waiting { until_wall, .. },
                ..
            } => Some(*until_wall),
            _ => None,
        }
    }

    /// The masked number that the state is about.
    pub(in crate::session) fn phone(&self) -> Option<String> {
        match visible(&self.phase) {
            Phase::Preparing { ask, next, .. } => {
                Some(next.as_ref().unwrap_or(ask).phone().masked())
            }
            Phase::Opening { ask, .. }
            | Phase::Scanning { ask, .. }
            | Phase::Linking(Linking { ask, .. })
            | Phase::Marking { ask, .. } => Some(ask.phone().masked()),
            Phase::Awaiting(awaiting) if !awaiting.hidden => Some(awaiting.ask.phone().masked()),
            _ => self
                .row
                .as_ref()
                .filter(|row| row.linked.is_some())
                .map(LinkRow::masked),
        }
    }

    /// The code that is live now, for somebody who opens the page.
    pub(in crate::session) fn code(&self, now: Now) -> Option<PairingCode> {
        code_of(visible(&self.phase), now)
    }

    /// Whose code has been shown and has not ended: it ends with the program.
    pub(in crate::session) fn open_code(&self, now: Now) -> Option<About> {
        match visible(&self.phase) {
            Phase::Awaiting(awaiting) if !awaiting.hidden => Some(awaiting.ask.about(now)),
            Phase::Linking(linking) => Some(linking.ask.about(now)),
            Phase::Marking { ask, .. } => Some(ask.about(now)),
            Phase::Linked {
                first: Some(first), ..
            } => Some(first.ask.about(now)),
            _ => None,
        }
    }

    pub(in crate::session) fn qr(&self) -> Option<&Qr> {
        self.qr.as_ref()
    }

    /// When the machine wants to be woken.
    pub(in crate::session) fn deadline(&self) -> Option<Instant> {
        deadline_of(&self.phase)
    }

    /// Whether commands must wait: an unlinking goes through to its end, and a journal entry takes a moment.
    pub(in crate::session) fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Leaving { .. } | Phase::Recording { .. })
    }

    /// Whether a preparation is under way, which an unlinking waits for.
    pub(in crate::session) fn is_preparing(&self) -> bool {
        matches!(self.phase, Phase::Preparing { .. })
    }

    pub(super) fn request_open(&self) -> bool {
        match visible(&self.phase) {
            Phase::Opening { .. } | Phase::Scanning { .. } => true,
            Phase::Awaiting(awaiting) => !awaiting.hidden,
            _ => false,
        }
    }
}

/// Behind a check stands what people see.
pub(super) fn visible(phase: &Phase) -> &Phase {
    match phase {
        Phase::Recording { back, .. } | Phase::Probing { back, .. } => visible(back),
        phase => phase,
    }
}

pub(super) fn is_linking(phase: &Phase) -> bool {
    matches!(
        phase,
        Phase::Linking(_) | Phase::Marking { .. } | Phase::Linked { first: Some(_), .. }
    )
}

pub(super) fn state_of(phase: &Phase) -> State {
    match phase {
        Phase::Rest(rest) => rest.state,
        Phase::Recording { back, .. } | Phase::Probing { back, .. } => state_of(back),
        Phase::Preparing { .. } | Phase::Opening { .. } => State::Connecting,
        Phase::Awaiting(awaiting) if awaiting.hidden => State::Unlinked,
        Phase::Awaiting(_) => State::AwaitingCodeEntry,
        Phase::Scanning { .. } => State::AwaitingScan,
        Phase::Linking(_) | Phase::Marking { .. } | Phase::Linked { first: Some(_), .. } => {
            State::Linking
        }
        Phase::Linked {
            stage: Stage::Up { .. },
            ..
        } => State::Connected,
        Phase::Linked { .. } => State::Reconnecting,
        Phase::Leaving { was, .. } => *was,
    }
}

pub(super) fn deadline_of(phase: &Phase) -> Option<Instant> {
    match phase {
        Phase::Rest(rest) => rest.wake,
        Phase::Recording { back, .. } | Phase::Probing { back, .. } => deadline_of(back),
        Phase::Opening { deadline, .. } | Phase::Linking(Linking { deadline, .. }) => {
            Some(*deadline)
        }
        Phase::Awaiting(awaiting) if awaiting.hidden => Some(awaiting.dead_at),
        Phase::Awaiting(awaiting) => Some(awaiting.hide_at),
        Phase::Marking {
            marked: true,
            deadline,
            ..
        } => Some(*deadline),
        Phase::Linked { stage, first, .. } => {
            let stage = match stage {
                Stage::Connecting { deadline, .. } => Some(*deadline),
                Stage::Waiting { until, .. } => Some(*until),
                Stage::Up { touch, .. } => Some(*touch),
                Stage::Starting { .. } | Stage::Renewing(_) => None,
            };
            stage
                .into_iter()
                .chain(first.as_ref().map(|first| first.deadline))
                .min()
        }
        Phase::Preparing { .. }
        | Phase::Scanning { .. }
        | Phase::Marking { .. }
        | Phase::Leaving { .. } => None,
    }
}

pub(super) fn code_of(phase: &Phase, now: Now) -> Option<PairingCode> {
    let (ask, shown, left, stopped) = match phase {
        Phase::Awaiting(awaiting) if !awaiting.hidden => {
            let left = awaiting.hide_at.saturating_duration_since(now.mono);
            (&awaiting.ask, &awaiting.shown, left, None)
        }
        // The timer stopped when the phone took the code.
        Phase::Linking(Linking {
            ask,
            shown: Some((shown, left)),
            ..
        }) => (ask, shown, *left, Some(*left)),
        _ => return None,
    };
    Some(PairingCode {
        code: shown.code.clone(),
        phone_number: ask.phone().masked(),
        expires_at: now.wall + i64::try_from(left.as_millis()).unwrap_or(i64::MAX / 2),
        deadline: now.mono + left,
        stopped,
        replaced: shown.replaced.clone(),
    })
}

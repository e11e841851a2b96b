//! What goes wrong, carried out.

use super::*;

impl Run {
    pub(super) fn strike(&mut self, fault: Fault) -> Verdict {
        self.say(|| format!("FAULT {fault:?}"));
        self.report.faults.count(fault);
        match fault {
            Fault::Crash => self.restart(true)?,
            Fault::Kill => self.restart(false)?,
            Fault::SyncError => self.place.fail(false, true, false),
            Fault::WriteError => self.place.fail(true, false, false),
            Fault::ReadError => {
                self.place.fail(false, false, true);
                self.reads_fail = true;
                for _ in 0..4 {
                    self.turn(false)?;
                }
                self.heal();
            }
            Fault::DiskFull => {
                let used: u64 = self.place.files().iter().map(|file| file.1).sum();
                self.place.set_capacity(used + self.random.below(2_000));
                for _ in 0..20 {
                    self.produce();
                    self.step_store();
                    self.turn(false)?;
                }
                self.heal();
            }
            Fault::SlowDisk => self.slowness = 40,
            Fault::ClockHour | Fault::ClockDays => {
                let by = if fault == Fault::ClockHour { 3_600_000 } else { 4 * 86_400_000 };
                self.wall_offset += if self.random.one_in(2) { by } else { -by };
                if self.random.one_in(2) {
                    let crash = self.random.one_in(2);
                    self.restart(crash)?;
                }
            }
            Fault::IndexDeleted | Fault::IndexLossy => {
                self.close(true);
                match fault {
                    Fault::IndexDeleted => self.place.delete_index(),
                    _ => self.place.lose_of_index(10, &mut self.random),
                }
                self.reopen()?;
            }
            Fault::Eviction => self.shard.iter_mut().for_each(|shard| shard.shard_mut().evict_clean()),
            Fault::ClientVanishes => {
                let client = self.random.below((self.clients.len() + members::MEMBERS) as u64) as usize;
                match client.checked_sub(self.clients.len()) {
                    Some(member) => self.member_vanishes(member),
                    None => self.vanish(client),
                }
            }
            Fault::TopicRecreated => {
                let index = self.random.below(self.topics.len() as u64) as usize;
                let topic = self.topics[index].facts.id;
                self.dropped_topics.push(topic);
                self.catalog(|token| Command::DropTopic { topic, token });
                self.topics[index] = self.new_topic(index);
                if index == self.groups[members::GROUP].topic {
                    self.members_begin_anew();
                }
                if index == lite::PARENT {
                    let parent = self.topics[index].facts.id;
                    self.groups[lite::GROUP].facts.lite.iter_mut().for_each(|lite| lite.parent = parent);
                    self.clients.iter_mut().for_each(|client| client.said.forget());
                }
                self.apply_catalog();
            }
            Fault::GroupRecreated => {
                let index = self.random.below(self.groups.len() as u64) as usize;
                let group = self.groups[index].facts.id;
                self.judge.tracks.remove(&group);
                self.dropped_groups.push(group);
                self.catalog(|token| Command::DropGroup { group, token });
                self.groups[index] = self.new_group(index);
                if index == members::GROUP {
                    self.members_begin_anew();
                }
                if index == lite::GROUP {
                    self.clients.iter_mut().for_each(|client| client.said.forget());
                }
                self.apply_catalog();
            }
        }
        Ok(())
    }

    pub(super) fn heal(&mut self) {
        self.place.fail(false, false, false);
        if std::mem::take(&mut self.reads_fail) {
            self.blind_until = self.now.plus(900_000);
        }
    }
}

//! What goes wrong, carried out.

use super::*;

impl<G: Ground> Run<G> {
    pub(super) fn strike(&mut self, fault: Fault) -> Verdict {
        self.say(|| format!("FAULT {fault:?}"));
        self.report.faults.count(fault);
        match fault {
            Fault::Crash => self.restart(End::Crash)?,
            Fault::Kill if G::SHARED => self.overtake()?,
            Fault::Kill => self.restart(End::Exit)?,
            Fault::SyncError => drop(self.ground.fail(Failing::Syncs)),
            Fault::WriteError => drop(self.ground.fail(Failing::Writes)),
            Fault::ReadError => {
                self.reads_fail = self.ground.fail(Failing::Reads);
                for _ in 0..4 {
                    self.turn(false)?;
                }
                self.heal();
            }
            Fault::DiskFull => {
                let left = self.random.below(2_000);
                self.ground.fill(left);
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
                    let end = if self.random.one_in(2) { End::Crash } else { End::Exit };
                    self.restart(end)?;
                }
            }
            Fault::IndexDeleted | Fault::IndexLossy => {
                self.close(End::Crash);
                let harm = if fault == Fault::IndexDeleted { IndexHarm::Deleted } else { IndexHarm::EntriesLost };
                self.ground.harm_index(harm, &mut self.random);
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
        self.ground.heal();
        if std::mem::take(&mut self.reads_fail) {
            self.blind_until = self.now.plus(900_000);
        }
    }
}

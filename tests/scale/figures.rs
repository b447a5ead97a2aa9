//! What was measured, as a table.

use std::fmt::{self, Display};
use std::time::Duration;

use crate::meter::{SERVICES, Window};
use crate::run::Story;
use crate::steps::Kind;
use crate::table::THROTTLED;
use crate::world::World;

const REPORTS: &str = "SageMaker SendPipelineExecutionStep";

pub struct Figures {
    /// The most reports of a second once SageMaker answers again.
    pub peak_after_the_outage: u64,
    /// Of the table, a held step and hour, while nothing happens.
    pub reads_while_quiet: f64,
    text: String,
}

impl Figures {
    pub fn of(story: &Story) -> Self {
        let phase = |name: &str| story.phases.iter().find(|(phase, _)| *phase == name);
        let after = phase("after the outage").map(|(_, window)| window.clone());
        let (peak, _) = story.world.meter(|meter| meter.peak(REPORTS, &after.unwrap_or_default()));
        let quiet = phase("quiet").map(|(_, window)| window.clone()).unwrap_or_default();
        let reads = story.world.meter(|meter| {
            meter.total("DynamoDB GetItem", &quiet) + meter.total("DynamoDB Query", &quiet)
        });
        let each = reads as f64 * 3600.0 / quiet.len() as f64 / story.size.held as f64;
        let mut text = String::new();
        write(&mut text, story, peak, each).expect("a string takes everything");
        Self { peak_after_the_outage: peak, reads_while_quiet: each, text }
    }

    /// How many requests the table refused in a phase.
    pub fn throttled(story: &Story, name: &str) -> u64 {
        let phase = story.phases.iter().find(|(phase, _)| *phase == name);
        let window = phase.map(|(_, window)| window.clone()).unwrap_or_default();
        story.world.meter(|meter| meter.total(THROTTLED, &window))
    }
}

impl Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn write(to: &mut impl fmt::Write, story: &Story, peak: u64, reads: f64) -> fmt::Result {
    let Story { size, world, phases, .. } = story;
    writeln!(to, "\n{} workers, {} held steps; {:?}\n", size.workers, size.held, size.settings)?;
    writeln!(
        to,
        "| phase | takes | SQS, calls/s (peak) | SageMaker | DynamoDB | throttled | units read/s | units \
         written/s |"
    )?;
    writeln!(to, "|---|---|---|---|---|---|---|---|")?;
    for (name, window) in phases {
        writeln!(to, "{}", row(world, name, window))?;
    }
    writeln!(to)?;
    let all = &story.window;
    let operations: Vec<String> =
        world.meter(|meter| meter.operations().map(str::to_owned).collect());
    for operation in operations {
        let (calls, (peak, at)) =
            world.meter(|meter| (meter.total(&operation, all), meter.peak(&operation, all)));
        writeln!(to, "{calls:>10} {operation}, at most {peak} a second (at {at} s)")?;
    }
    writeln!(to)?;
    for kind in Kind::ALL {
        let (writes, units) = world.meter(|meter| meter.of_kind(kind.name()));
        writeln!(to, "{writes:>10} writes of {} steps, {units} units", kind.name())?;
    }
    world.meter(|meter| {
        meter.counts().try_for_each(|(what, count)| writeln!(to, "{count:>10} {what}"))
    })?;
    world.steps(|steps| {
        let mut explained: Vec<_> = steps.explained.iter().collect();
        explained.sort();
        writeln!(to, "{:>10} steps in all", steps.count())?;
        writeln!(to, "{:>10} runs that resumed from a checkpoint", steps.resumed)?;
        explained.iter().try_for_each(|(why, count)| {
            writeln!(to, "{count:>10} runs after the first, because the one before {why}")
        })
    })?;
    let seconds = |time: Duration| time.as_secs();
    writeln!(to, "\n{reads:.1} reads of the table per held step and hour while nothing happens")?;
    writeln!(
        to,
        "the fullest worker ran {} steps after the redeploy; evenly, it would be {}",
        story.fullest,
        story.size.held / story.size.workers as usize
    )?;
    let [half, most, all] = story.wave_recovered.map(seconds);
    writeln!(
        to,
        "{} steps lost their worker in the wave; half ran again after {half} s, nine tenths after \
         {most} s, all after {all} s",
        story.taken
    )?;
    writeln!(
        to,
        "all ran again {} s after the last worker was replaced",
        seconds(story.redeploy_recovered)
    )?;
    writeln!(
        to,
        "{} outcomes had piled up; all were reported within {} s, at most {peak} a second",
        story.piled,
        seconds(story.outage_recovered)
    )
}

/// What is asked in a phase.
pub fn row(world: &World, name: &str, window: &Window) -> String {
    let mut row = format!("| {name} | {} ", minutes(window));
    for service in SERVICES.into_iter().chain([THROTTLED]) {
        let (calls, peak) =
            world.meter(|meter| (meter.total(service, window), meter.peak(service, window).0));
        row += &format!("| {} ({peak}) ", per_second(calls, window));
    }
    let (read, written) =
        world.meter(|meter| (meter.units_read(window), meter.units_written(window)));
    format!("{row}| {} | {} |", per_second(read, window), per_second(written, window))
}

fn minutes(window: &Window) -> String {
    format!("{} min", window.len().div_ceil(60))
}

fn per_second(count: u64, window: &Window) -> String {
    let each = count as f64 / window.len().max(1) as f64;
    if each < 10.0 { format!("{each:.1}") } else { format!("{each:.0}") }
}

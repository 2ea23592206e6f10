//! `ctpressure report`: what happened, from a journal.

use clap::Args;
use ctpressure_report::ReportCommand;

use super::{args::LogArgs, logging};

#[derive(Args, Debug)]
pub(super) struct Report {
    #[command(flatten)]
    report: ReportCommand,
    #[command(flatten)]
    log: LogArgs,
}

impl Report {
    pub(super) fn run(self) -> anyhow::Result<()> {
        logging::start(self.log.log, self.log.verbose, tracing::Level::WARN);
        self.report.run()
    }
}

//! The manual page: the whole command on one page, with each subcommand's options and examples.

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, roman},
};
use std::io::{self, Write};

/// The environment variables that the command reads.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("TIKTOK_TOKENS_FUNCTION", "The function's name or ARN, as with --function-name."),
    (
        "AWS_ENDPOINT_URL_LAMBDA",
        "The URL of Lambda's API, as with --endpoint-url. The local stack prints the one to use.",
    ),
    ("AWS_PROFILE", "The profile in the AWS configuration files, as with --profile."),
    ("AWS_REGION", "The AWS region, as with --region."),
    ("COLUMNS", "The width of tables when the output is not a terminal. The default is 100."),
    ("NO_COLOR", "If this is set and not empty, tables have no colors."),
];

/// Writes the page of the whole command.
pub(super) fn render(command: &Command, out: &mut dyn Write) -> io::Result<()> {
    let man = Man::new(command.clone());
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    roff.to_writer(out)?;
    for subcommand in command.get_subcommands() {
        render_subcommand(subcommand, out)?;
    }
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    let codes = super::arguments::EXIT_CODES.lines().skip(1);
    for (code, meaning) in codes.filter_map(|line| line.trim().split_once("  ")) {
        entry(&mut roff, code, meaning);
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for (name, meaning) in ENVIRONMENT {
        entry(&mut roff, name, meaning);
    }
    roff.control("SH", ["EXAMPLES"]);
    examples(&mut roff, command);
    roff.to_writer(out)?;
    man.render_version_section(out)
}

fn render_subcommand(command: &Command, out: &mut dyn Write) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SS", [format!("tiktok-tokens {}", command.get_name()).as_str()]);
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    for paragraph in about.split("\n\n") {
        roff.control("PP", []);
        roff.text([roman(paragraph.replace('\n', " "))]);
    }
    roff.to_writer(out)?;
    // The options of an invocation are those of the whole command, and shown there.
    let mut options = Vec::new();
    Man::new(command.clone().disable_help_flag(true)).render_options_section(&mut options)?;
    let options = String::from_utf8_lossy(&options).replace(".SH OPTIONS", ".PP\n\\fBOptions\\fR");
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        out.write_all(options.as_bytes())?;
    }
    let mut roff = Roff::new();
    roff.control("PP", []);
    roff.text([bold("Examples")]);
    examples(&mut roff, command);
    roff.to_writer(out)
}

/// The examples at the end of a command's help, line by line.
fn examples(roff: &mut Roff, command: &Command) {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let examples = help.lines().skip(1).take_while(|line| !line.is_empty());
    roff.control("PP", []);
    roff.control("nf", []);
    roff.control("RS", ["4"]);
    for example in examples {
        roff.text([roman(example.trim())]);
    }
    roff.control("RE", []);
    roff.control("fi", []);
}

fn entry(roff: &mut Roff, name: &str, meaning: &str) {
    let name: Inline = bold(name);
    roff.control("TP", []);
    roff.text([name]);
    roff.text([roman(meaning)]);
}

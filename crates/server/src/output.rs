//! What commands print: as the standard library's `println!`, but whoever reads it may leave early, as `martlet topic list | head` does.

use std::fmt::Arguments;
use std::io::Write;

/// Stands for the standard library's macro in this crate: see [`line`].
macro_rules! println {
    () => { $crate::output::line(format_args!("")) };
    ($($argument:tt)*) => { $crate::output::line(format_args!($($argument)*)) };
}

/// Writes a line to standard output. A reader that has left ends the program, as nobody wants the rest; a line that cannot be
/// written for another reason (a full disk) ends it as a failure.
pub fn line(text: Arguments<'_>) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{text}") {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        eprintln!("error: writing to standard output: {error}");
        std::process::exit(1);
    }
}

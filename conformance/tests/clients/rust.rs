//! The published Rust client.

use martlet_conformance::language::Language;

martlet_conformance::suite!(Language::Rust);

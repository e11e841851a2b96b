//! The published Go client.

use martlet_conformance::language::Language;

martlet_conformance::suite!(Language::Go);

//! The published Java client.

use martlet_conformance::language::Language;

martlet_conformance::suite!(Language::Java);

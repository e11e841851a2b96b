//! The published Node.js client.

use martlet_conformance::language::Language;

martlet_conformance::suite!(Language::Nodejs);

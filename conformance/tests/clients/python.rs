//! The published Python client.

use martlet_conformance::language::Language;

martlet_conformance::suite!(Language::Python);

"""The tables of the SQLite database, layout by layout; what has been released is never edited, only added to."""

from __future__ import annotations

_JOBS = """
CREATE TABLE jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL UNIQUE,
  state TEXT NOT NULL,
  blob TEXT NOT NULL UNIQUE,
  sop_class_uid TEXT NOT NULL,
  sop_instance_uid TEXT NOT NULL,
  transfer_syntax_uid TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  dataset_sha256 TEXT NOT NULL,
  size_bytes INTEGER NOT NULL,
  calling_ae_title TEXT NOT NULL,
  called_ae_title TEXT NOT NULL,
  peer_address TEXT NOT NULL,
  received_at REAL NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  token INTEGER NOT NULL DEFAULT 0,
  worker TEXT NOT NULL DEFAULT '',
  leased_at REAL NOT NULL DEFAULT 0,
  lease_until REAL NOT NULL DEFAULT 0,
  not_before REAL NOT NULL DEFAULT 0,
  outcome TEXT NOT NULL DEFAULT '',
  reason TEXT NOT NULL DEFAULT '',
  message TEXT NOT NULL DEFAULT '',
  study_instance_uid TEXT NOT NULL DEFAULT '',
  result TEXT,
  finished_at REAL
) STRICT;
CREATE UNIQUE INDEX one_job_per_instance ON jobs (sop_instance_uid) WHERE state != 'quarantined';
CREATE INDEX data_sets ON jobs (sop_instance_uid, dataset_sha256);
CREATE INDEX open_jobs ON jobs (state, number);
CREATE TABLE deliveries (
  delivery_id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL REFERENCES jobs (job_id),
  destination TEXT NOT NULL,
  role TEXT NOT NULL,
  sop_class_uid TEXT NOT NULL,
  sop_instance_uid TEXT NOT NULL,
  transfer_syntax_uid TEXT NOT NULL,
  blob TEXT NOT NULL,
  state TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  tried_at REAL NOT NULL DEFAULT 0,
  next_at REAL NOT NULL DEFAULT 0,
  status INTEGER,
  cause TEXT NOT NULL DEFAULT '',
  UNIQUE (job_id, destination, sop_instance_uid)
) STRICT;
CREATE INDEX open_deliveries ON deliveries (destination, state, next_at);
CREATE TABLE audit_head (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  number INTEGER NOT NULL,
  sha256 TEXT NOT NULL,
  first_byte INTEGER NOT NULL,
  end_byte INTEGER NOT NULL
) STRICT;
"""
_DRIFT = """
CREATE TABLE drift_streams (
  stream_id INTEGER PRIMARY KEY,
  sender TEXT NOT NULL,
  bundle_name TEXT NOT NULL,
  bundle_version TEXT NOT NULL,
  bundle_digest TEXT NOT NULL,
  images INTEGER NOT NULL DEFAULT 0,
  state TEXT NOT NULL DEFAULT '',
  log10_evidence REAL NOT NULL DEFAULT 0,
  log10_maximum REAL NOT NULL DEFAULT 0,
  started_at REAL NOT NULL,
  updated_at REAL NOT NULL,
  alarm_at REAL,
  alarm_announced INTEGER NOT NULL DEFAULT 0,
  UNIQUE (sender, bundle_digest)
) STRICT;
CREATE TABLE drift_places (
  stream_id INTEGER NOT NULL REFERENCES drift_streams (stream_id) ON DELETE CASCADE,
  class_name TEXT NOT NULL,
  place INTEGER NOT NULL,
  images INTEGER NOT NULL,
  PRIMARY KEY (stream_id, class_name, place)
) STRICT, WITHOUT ROWID;
"""
_FRONT_DOOR = """
DROP INDEX data_sets;
DROP INDEX one_job_per_instance;
ALTER TABLE jobs RENAME COLUMN sha256 TO digest;
ALTER TABLE jobs DROP COLUMN dataset_sha256;
UPDATE jobs SET digest = 'sha256:' || digest;
ALTER TABLE jobs ADD COLUMN bundle TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN predecessor TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN rule TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN purged_at REAL;
CREATE UNIQUE INDEX one_job_per_instance ON jobs (sop_instance_uid) WHERE state != 'quarantined' AND predecessor = '';
DROP INDEX open_jobs;
CREATE INDEX open_jobs ON jobs (state, predecessor != '', number);
CREATE INDEX instances ON jobs (sop_instance_uid);
CREATE INDEX studies ON jobs (study_instance_uid);
CREATE INDEX ended_jobs ON jobs (finished_at) WHERE purged_at IS NULL;
ALTER TABLE deliveries ADD COLUMN study_instance_uid TEXT NOT NULL DEFAULT '';
ALTER TABLE deliveries ADD COLUMN transaction_uid TEXT NOT NULL DEFAULT '';
UPDATE deliveries SET study_instance_uid = (SELECT study_instance_uid FROM jobs WHERE jobs.job_id = deliveries.job_id);
CREATE INDEX results_in_use ON deliveries (blob);
DROP INDEX open_deliveries;
CREATE INDEX deliveries_to_send ON deliveries (destination, delivery_id) WHERE state IN ('pending', 'retry');
CREATE INDEX waiting_deliveries ON deliveries (destination, next_at) WHERE state IN ('pending', 'retry');
CREATE INDEX deliveries_of_studies ON deliveries (destination, study_instance_uid, delivery_id)
  WHERE state IN ('pending', 'retry');
CREATE INDEX unconfirmed_deliveries ON deliveries (destination, transaction_uid, delivery_id)
  WHERE state = 'unconfirmed';
CREATE INDEX delivery_states ON deliveries (destination, state);
CREATE TABLE commitments (
  transaction_uid TEXT PRIMARY KEY,
  destination TEXT NOT NULL,
  asked_at REAL NOT NULL,
  due_at REAL NOT NULL,
  answered_at REAL
) STRICT;
CREATE TABLE commitment_objects (
  transaction_uid TEXT NOT NULL REFERENCES commitments (transaction_uid) ON DELETE CASCADE,
  delivery_id INTEGER NOT NULL REFERENCES deliveries (delivery_id) ON DELETE CASCADE,
  PRIMARY KEY (transaction_uid, delivery_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX commitments_of_deliveries ON commitment_objects (delivery_id);
CREATE TABLE paused_destinations (
  destination TEXT PRIMARY KEY,
  since REAL NOT NULL,
  why TEXT NOT NULL
) STRICT;
CREATE TABLE unreachable_destinations (
  destination TEXT PRIMARY KEY,
  since REAL NOT NULL,
  attempts INTEGER NOT NULL,
  tried_at REAL NOT NULL,
  next_at REAL NOT NULL,
  cause TEXT NOT NULL
) STRICT;
"""
_SIMILARITIES = ("iou", "dice", "ssim", "cosine", "pearson", "kl", "wasserstein")
_MEASURED = (
    "(SELECT CASE WHEN typeof(json_extract(m.value, '$.value')) IN ('real', 'integer')"
    " THEN json_extract(m.value, '$.value') END"
    " FROM json_each(result, '$.verification.checks') AS c, json_each(c.value, '$.measurements') AS m"
    " WHERE json_extract(m.value, '$.name') = 'attention.{}')"
)
_FIGURE = "CASE WHEN typeof(json_extract(result, '{0}')) IN ('real', 'integer') THEN json_extract(result, '{0}') END"
_OVERSIGHT = f"""
CREATE TABLE job_headers (
  number INTEGER PRIMARY KEY REFERENCES jobs (number),
  patient_name TEXT NOT NULL,
  patient_id TEXT NOT NULL,
  accession_number TEXT NOT NULL,
  study_date TEXT NOT NULL,
  study_description TEXT NOT NULL,
  modality TEXT NOT NULL,
  body_part_examined TEXT NOT NULL
) STRICT;
CREATE INDEX headers_by_name ON job_headers (replace(patient_name, '^', ' ') COLLATE NOCASE);
CREATE INDEX headers_by_id ON job_headers (patient_id COLLATE NOCASE);
CREATE INDEX headers_by_accession ON job_headers (accession_number COLLATE NOCASE);
CREATE TABLE job_figures (
  number INTEGER PRIMARY KEY REFERENCES jobs (number),
  finished_at REAL NOT NULL,
  sender TEXT NOT NULL,
  bundle_name TEXT NOT NULL,
  bundle_version TEXT NOT NULL,
  bundle_digest TEXT NOT NULL,
  class_name TEXT NOT NULL,
  outcome TEXT NOT NULL,
  p_value REAL,
  {", ".join(f"{name} REAL" for name in _SIMILARITIES)}
) STRICT;
INSERT INTO job_figures SELECT number, finished_at, calling_ae_title,
  coalesce(json_extract(result, '$.bundle.name'), ''), coalesce(json_extract(result, '$.bundle.version'), ''),
  coalesce(json_extract(result, '$.bundle.digest'), ''),
  coalesce(json_extract(result, '$.verification.rank.class_name'), ''), outcome,
  {_FIGURE.format("$.verification.p_value")},
  {", ".join(_MEASURED.format(name) for name in _SIMILARITIES)}
  FROM jobs WHERE result IS NOT NULL AND finished_at IS NOT NULL;
CREATE INDEX figures_by_time ON job_figures (finished_at);
CREATE TABLE reviews (
  review_id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id TEXT NOT NULL REFERENCES jobs (job_id),
  kind TEXT NOT NULL,
  class_name TEXT NOT NULL,
  words TEXT NOT NULL,
  reviewer TEXT NOT NULL,
  reviewed_at REAL NOT NULL
) STRICT;
CREATE INDEX reviews_of_jobs ON reviews (job_id);
CREATE INDEX reviews_by_kind ON reviews (kind, review_id);
CREATE INDEX job_outcomes ON jobs (outcome, number);
CREATE INDEX jobs_of_senders ON jobs (calling_ae_title, received_at);
ALTER TABLE audit_head ADD COLUMN segment INTEGER NOT NULL DEFAULT 1;
CREATE INDEX jobs_listed ON jobs (number, received_at, calling_ae_title, outcome);
"""  # noqa: S608 (constants only)
LAYOUTS = (_JOBS, _DRIFT, _FRONT_DOOR, _OVERSIGHT)  # each adds to the one before; an older database gets what it lacks
SCHEMA_VERSION = len(LAYOUTS)

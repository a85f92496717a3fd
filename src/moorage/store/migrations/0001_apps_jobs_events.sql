-- Times are Unix seconds. JSON columns hold compact JSON text. `n` is the order in which rows were made.

CREATE TABLE apps (
  n INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  network TEXT NOT NULL,
  name TEXT NOT NULL,
  owner TEXT NOT NULL,
  state TEXT NOT NULL,
  digest TEXT NOT NULL,
  size INTEGER NOT NULL,
  files INTEGER NOT NULL,
  manifest TEXT NOT NULL,
  meta TEXT NOT NULL,
  layers TEXT NOT NULL,
  deploy INTEGER NOT NULL,
  published INTEGER NOT NULL,
  created_at REAL NOT NULL,
  updated_at REAL NOT NULL,
  error TEXT
) STRICT;

CREATE TABLE jobs (
  n INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  owner TEXT NOT NULL,
  network TEXT NOT NULL,
  app_id TEXT NOT NULL REFERENCES apps (id),
  app_digest TEXT NOT NULL,
  layers TEXT NOT NULL,
  state TEXT NOT NULL,
  blocked INTEGER NOT NULL,              -- how many unfinished jobs it runs after
  cancelling INTEGER NOT NULL DEFAULT 0, -- its cancellation was asked for while it ran
  attempts INTEGER NOT NULL DEFAULT 0,   -- also the lease of the running attempt
  created_at REAL NOT NULL,
  started_at REAL,
  finished_at REAL,
  expires_at REAL,                       -- while it is queued: when its queue or total timeout ends it
  parent_id TEXT,
  retry_of TEXT,
  idempotency_key TEXT,
  error TEXT,
  value TEXT,
  spec TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX jobs_by_key ON jobs (owner, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- One index for each way to list; the row number at the end of each gives the order.
CREATE INDEX jobs_by_owner ON jobs (owner);
CREATE INDEX jobs_by_owner_state ON jobs (owner, state);
CREATE INDEX jobs_by_app ON jobs (app_id);
CREATE INDEX jobs_by_app_state ON jobs (app_id, state);
CREATE INDEX jobs_by_network ON jobs (network);
CREATE INDEX jobs_by_state ON jobs (state);
CREATE INDEX jobs_by_parent ON jobs (parent_id) WHERE parent_id IS NOT NULL;

CREATE INDEX jobs_ready ON jobs (blocked) WHERE state = 'queued';
CREATE INDEX jobs_expiring ON jobs (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE job_labels (
  key TEXT NOT NULL,
  value TEXT NOT NULL,
  job INTEGER NOT NULL REFERENCES jobs (n),
  PRIMARY KEY (key, value, job)
) STRICT, WITHOUT ROWID;

CREATE TABLE job_after (
  leader INTEGER NOT NULL REFERENCES jobs (n),
  follower INTEGER NOT NULL REFERENCES jobs (n),
  PRIMARY KEY (leader, follower)
) STRICT, WITHOUT ROWID;

CREATE INDEX job_after_follower ON job_after (follower);

CREATE TABLE job_counts (
  state TEXT PRIMARY KEY,
  count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO job_counts VALUES ('queued', 0), ('running', 0), ('succeeded', 0), ('failed', 0), ('cancelled', 0);

CREATE TRIGGER jobs_counted_new AFTER INSERT ON jobs BEGIN
  UPDATE job_counts SET count = count + 1 WHERE state = new.state;
END;

CREATE TRIGGER jobs_counted_change AFTER UPDATE OF state ON jobs BEGIN
  UPDATE job_counts SET count = count - 1 WHERE state = old.state;
  UPDATE job_counts SET count = count + 1 WHERE state = new.state;
END;

CREATE TABLE attempts (
  n INTEGER PRIMARY KEY,
  job INTEGER NOT NULL REFERENCES jobs (n),
  number INTEGER NOT NULL,
  id TEXT NOT NULL,
  state TEXT NOT NULL,
  place TEXT NOT NULL,
  created_at REAL NOT NULL,
  started_at REAL,
  finished_at REAL,
  exit_status INTEGER,
  wall REAL NOT NULL DEFAULT 0.0,
  cpu REAL,
  peak_memory INTEGER,
  error TEXT,
  stdout TEXT,
  stderr TEXT,
  outputs TEXT,
  UNIQUE (job, number)
) STRICT;

CREATE INDEX attempts_open ON attempts (n) WHERE finished_at IS NULL;

CREATE TABLE events (
  id INTEGER PRIMARY KEY,
  subject TEXT NOT NULL,
  seq INTEGER NOT NULL,
  time REAL NOT NULL,
  topic TEXT NOT NULL,
  message TEXT NOT NULL,
  attempt_id TEXT,
  error TEXT,
  data TEXT,
  UNIQUE (subject, seq)
) STRICT;

-- The number of a subject's last event is read from its events, so that the two cannot disagree.
CREATE VIEW job_rows AS
SELECT jobs.*, (SELECT max(seq) FROM events WHERE subject = jobs.id) AS seq FROM jobs;

CREATE VIEW app_rows AS
SELECT apps.*, (SELECT max(seq) FROM events WHERE subject = apps.id) AS seq FROM apps;

CREATE TABLE tokens (
  name TEXT PRIMARY KEY,
  sha256 TEXT NOT NULL,
  operator INTEGER NOT NULL,
  created_at REAL NOT NULL
) STRICT, WITHOUT ROWID;

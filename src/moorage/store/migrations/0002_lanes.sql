ALTER TABLE jobs ADD COLUMN lane TEXT; -- the queue in which it waits; NULL is the engine's

DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs (lane, blocked) WHERE state = 'queued';

CREATE INDEX jobs_ended ON jobs (owner, finished_at) WHERE finished_at IS NOT NULL;

CREATE TRIGGER jobs_counted_gone AFTER DELETE ON jobs BEGIN
  UPDATE job_counts SET count = count - 1 WHERE state = old.state;
END;

-- name: by_id
SELECT * FROM job_rows WHERE id = ?

-- name: by_key
SELECT * FROM job_rows WHERE owner = ? AND idempotency_key = ?

-- name: insert
INSERT INTO jobs
  (id, owner, network, app_id, app_digest, layers, state, blocked, created_at, expires_at, parent_id, retry_of,
   idempotency_key, lane, spec)
VALUES (?, ?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?, ?)

-- name: insert_running
INSERT INTO jobs
  (id, owner, network, app_id, app_digest, layers, state, blocked, attempts, created_at, started_at, parent_id, lane, spec)
VALUES (?, ?, ?, ?, ?, ?, 'running', 0, 1, ?, ?, ?, ?, ?)

-- name: label
INSERT INTO job_labels (key, value, job) VALUES (?, ?, ?)

-- name: leader
SELECT n, state, lane FROM jobs WHERE id = ?

-- name: follow
INSERT INTO job_after (leader, follower) VALUES (?, ?)

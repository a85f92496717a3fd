-- name: of_job
SELECT attempts.*, jobs.id AS job_id FROM jobs JOIN attempts ON attempts.job = jobs.n
WHERE jobs.id = ?
ORDER BY attempts.number

-- name: open
SELECT attempts.*, jobs.id AS job_id
FROM jobs CROSS JOIN attempts ON attempts.job = jobs.n AND attempts.number = jobs.attempts
WHERE jobs.state = 'running'
ORDER BY jobs.n

-- name: held
SELECT
  jobs.n, jobs.id, jobs.app_id, jobs.spec, jobs.state, jobs.lane, jobs.attempts, jobs.cancelling, jobs.created_at,
  (SELECT max(seq) FROM events WHERE subject = jobs.id) AS seq,
  attempts.n AS attempt, attempts.id AS attempt_id, attempts.state AS attempt_state
FROM jobs LEFT JOIN attempts ON attempts.job = jobs.n AND attempts.number = ?
WHERE jobs.id = ?

-- name: outputs
SELECT outputs FROM attempts JOIN jobs ON attempts.job = jobs.n AND attempts.number = jobs.attempts WHERE jobs.id = ?

-- name: insert
INSERT INTO attempts (job, number, id, state, place, created_at, started_at)
VALUES (?, ?, ?, ?, ?, ?, ?)

-- name: advance
UPDATE attempts SET
  state = :state, started_at = CASE WHEN :state = 'running' THEN :now ELSE started_at END
WHERE n = :n

-- name: end
UPDATE attempts SET
  state = :state, finished_at = :now, exit_status = :exit_status, wall = :wall, cpu = :cpu, peak_memory = :peak_memory,
  error = :error, stdout = :stdout, stderr = :stderr, outputs = :outputs
WHERE n = :n

-- name: lost
SELECT count(*) AS lost FROM attempts WHERE job = ? AND state = 'lost'

-- name: start_job
UPDATE jobs SET
  state = :state, attempts = :number, started_at = coalesce(started_at, :now), expires_at = NULL
WHERE n = :n

-- name: requeue_job
UPDATE jobs SET state = :state, expires_at = :expires_at WHERE n = :n

-- name: app_state
SELECT state FROM apps WHERE id = ?

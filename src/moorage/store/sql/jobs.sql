-- name: get
SELECT * FROM job_rows WHERE id = ?

-- name: end
UPDATE jobs SET state = :state, finished_at = :now, expires_at = NULL, error = :error, value = :value WHERE n = :n

-- name: cancelling
UPDATE jobs SET cancelling = 1 WHERE n = ?

-- name: expired
SELECT * FROM job_rows WHERE expires_at <= ? ORDER BY expires_at LIMIT 100

-- name: queued_of_app
SELECT n, id, state, seq FROM job_rows
WHERE app_id = ? AND state = 'queued' AND state <> 'running' -- as the index has it
ORDER BY n LIMIT 100

-- name: followers
SELECT job_rows.n, job_rows.id, job_rows.state, job_rows.seq, job_rows.blocked
FROM job_after CROSS JOIN job_rows ON job_rows.n = job_after.follower
WHERE job_after.leader = ?
ORDER BY job_after.follower
LIMIT 100

-- name: let_go
DELETE FROM job_after WHERE leader = ? AND follower = ?

-- name: unblock
UPDATE jobs SET blocked = blocked - 1 WHERE n = ?

-- name: nth_latest
SELECT finished_at FROM jobs WHERE owner = ? AND finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT 1 OFFSET ?

-- name: forgettable
SELECT n, id FROM jobs
WHERE owner = :owner AND finished_at IS NOT NULL AND finished_at < :before
  AND NOT EXISTS (SELECT 1 FROM job_after WHERE leader = jobs.n)
  AND id <> (SELECT subject FROM events ORDER BY id DESC LIMIT 1) -- or the number of that event would be given again
ORDER BY finished_at LIMIT 100

-- name: forget_events
DELETE FROM events WHERE subject = ?

-- name: forget_attempts
DELETE FROM attempts WHERE job = ?

-- name: forget_labels
DELETE FROM job_labels WHERE job = ?

-- name: forget_after
DELETE FROM job_after WHERE follower = ?

-- name: forget_job
DELETE FROM jobs WHERE n = ?

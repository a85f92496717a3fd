-- name: append
INSERT INTO events (subject, seq, time, topic, message, attempt_id, error, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?)

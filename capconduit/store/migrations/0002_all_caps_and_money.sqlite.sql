CREATE TABLE schedule (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  name TEXT NOT NULL,
  timezone TEXT NOT NULL,
  hours TEXT NOT NULL,
  holidays TEXT NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT schedule_name UNIQUE (tenant_id, name),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

CREATE TABLE block (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  scope TEXT NOT NULL,
  scope_id TEXT NOT NULL,
  pattern TEXT NOT NULL,
  reason TEXT NOT NULL,
  expires_ms BIGINT,
  PRIMARY KEY (id),
  CONSTRAINT block_pattern UNIQUE (tenant_id, scope, scope_id, pattern),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

CREATE TABLE target_state (
  target_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  active BIGINT NOT NULL,
  failures BIGINT NOT NULL,
  rested_until_ms BIGINT NOT NULL,
  probe_until_ms BIGINT NOT NULL,
  idle_since_ms BIGINT NOT NULL,
  PRIMARY KEY (target_id)
)
 WITHOUT ROWID;

CREATE TABLE rule_state (
  rule_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  cursor BIGINT NOT NULL,
  PRIMARY KEY (rule_id)
)
 WITHOUT ROWID;

CREATE TABLE recent_caller (
  campaign_id TEXT NOT NULL,
  caller TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  call_id TEXT NOT NULL,
  at_ms BIGINT NOT NULL,
  PRIMARY KEY (campaign_id, caller)
)
 WITHOUT ROWID;

CREATE TABLE ledger_key (
  tenant_id TEXT NOT NULL,
  idempotency_key TEXT NOT NULL,
  ledger_id TEXT NOT NULL,
  PRIMARY KEY (tenant_id, idempotency_key)
)
 WITHOUT ROWID;

CREATE TABLE estate_change (
  version BIGINT NOT NULL,
  kind TEXT NOT NULL,
  row_key TEXT NOT NULL,
  PRIMARY KEY (version, kind, row_key)
)
 WITHOUT ROWID;

ALTER TABLE rate ADD COLUMN then_after_s BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE rate ADD COLUMN then_per_minute_micros BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE campaign ADD COLUMN schedule_id TEXT REFERENCES schedule (id);

ALTER TABLE campaign ADD COLUMN duplicate_window_ms BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE campaign ADD COLUMN anonymous_callers TEXT DEFAULT '' NOT NULL;

ALTER TABLE campaign ADD COLUMN min_attestation TEXT DEFAULT '' NOT NULL;

ALTER TABLE target ADD COLUMN schedule_id TEXT REFERENCES schedule (id);

ALTER TABLE target ADD COLUMN rate_id TEXT REFERENCES rate (id);

ALTER TABLE target ADD COLUMN payout_rate_id TEXT REFERENCES rate (id);

ALTER TABLE rule ADD COLUMN rate_id TEXT REFERENCES rate (id);

ALTER TABLE rule ADD COLUMN payout_rate_id TEXT REFERENCES rate (id);

ALTER TABLE call ADD COLUMN leg BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE call ADD COLUMN then_after_s BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE call ADD COLUMN then_per_minute_micros BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE cdr ADD COLUMN attempt BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE cdr ADD COLUMN then_after_s BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE cdr ADD COLUMN then_per_minute_micros BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE cdr ADD COLUMN payout_micros BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE cdr ADD COLUMN payout_tariff TEXT DEFAULT '' NOT NULL;

UPDATE cdr SET attempt = attempts;

DROP INDEX place_open;

DROP INDEX hold_seller;

DROP INDEX event_time;

DROP INDEX ledger_account;

ALTER TABLE cap RENAME TO cap_before;

CREATE TABLE cap (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  scope TEXT NOT NULL,
  scope_id TEXT NOT NULL,
  metric TEXT NOT NULL,
  window_kind TEXT NOT NULL,
  limit_value BIGINT NOT NULL,
  window_ms BIGINT DEFAULT 0 NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT cap_key UNIQUE (tenant_id, scope, scope_id, metric, window_kind, window_ms),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

INSERT INTO cap (id, tenant_id, created_ms, updated_ms, scope, scope_id, metric, window_kind, limit_value, window_ms)
SELECT id, tenant_id, created_ms, updated_ms, scope, scope_id, metric, window_kind, limit_value, 0 FROM cap_before;

DROP TABLE cap_before;

ALTER TABLE counter RENAME TO counter_before;

CREATE TABLE counter (
  tenant_id TEXT NOT NULL,
  cap_id TEXT NOT NULL,
  window_start_ms BIGINT NOT NULL,
  used BIGINT NOT NULL,
  in_flight BIGINT NOT NULL,
  base BIGINT NOT NULL,
  PRIMARY KEY (cap_id, window_start_ms)
)
 WITHOUT ROWID;

INSERT INTO counter (tenant_id, cap_id, window_start_ms, used, in_flight, base)
SELECT tenant_id, cap_id, window_start_ms, used, in_flight, base FROM counter_before;

DROP TABLE counter_before;

ALTER TABLE attempt RENAME TO attempt_before;

CREATE TABLE attempt (
  call_id TEXT NOT NULL,
  number BIGINT NOT NULL,
  tenant_id TEXT NOT NULL,
  target_id TEXT NOT NULL,
  target_name TEXT NOT NULL,
  rule_id TEXT NOT NULL,
  dial TEXT NOT NULL,
  ring_s BIGINT NOT NULL,
  started_ms BIGINT NOT NULL,
  rang_ms BIGINT,
  answered_ms BIGINT,
  ended_ms BIGINT,
  dialstatus TEXT,
  hangup_cause BIGINT,
  round BIGINT DEFAULT 0 NOT NULL,
  rate_id TEXT DEFAULT '' NOT NULL,
  tariff TEXT DEFAULT '' NOT NULL,
  payout TEXT DEFAULT '' NOT NULL,
  PRIMARY KEY (call_id, number)
)
 WITHOUT ROWID;

INSERT INTO attempt (call_id, number, tenant_id, target_id, target_name, rule_id, dial, ring_s, started_ms, rang_ms, answered_ms, ended_ms, dialstatus, hangup_cause, round, rate_id, tariff, payout)
SELECT call_id, number, tenant_id, target_id, target_name, rule_id, dial, ring_s, started_ms, rang_ms, answered_ms, ended_ms, dialstatus, hangup_cause, number, '', '', '' FROM attempt_before;

DROP TABLE attempt_before;

ALTER TABLE place RENAME TO place_before;

CREATE TABLE place (
  call_id TEXT NOT NULL,
  attempt BIGINT NOT NULL,
  cap_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  window_start_ms BIGINT NOT NULL,
  amount BIGINT NOT NULL,
  state TEXT NOT NULL,
  counted BIGINT NOT NULL,
  reason TEXT NOT NULL,
  node TEXT NOT NULL,
  boot_id TEXT NOT NULL,
  PRIMARY KEY (call_id, attempt, cap_id)
)
 WITHOUT ROWID;

INSERT INTO place (call_id, attempt, cap_id, tenant_id, window_start_ms, amount, state, counted, reason, node, boot_id)
SELECT call_id, attempt, cap_id, tenant_id, window_start_ms, amount, CASE WHEN state = 'released' THEN 'released' ELSE 'held' END, counted, reason, node, boot_id FROM place_before;

DROP TABLE place_before;

ALTER TABLE hold RENAME TO hold_before;

CREATE TABLE hold (
  call_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  seller_id TEXT NOT NULL,
  amount_micros BIGINT NOT NULL,
  state TEXT NOT NULL,
  opened_ms BIGINT NOT NULL,
  expires_ms BIGINT NOT NULL,
  PRIMARY KEY (call_id)
)
 WITHOUT ROWID;

INSERT INTO hold (call_id, tenant_id, seller_id, amount_micros, state, opened_ms, expires_ms)
SELECT call_id, tenant_id, seller_id, amount_micros, state, opened_ms, expires_ms FROM hold_before;

DROP TABLE hold_before;

ALTER TABLE tombstone RENAME TO tombstone_before;

CREATE TABLE tombstone (
  node TEXT NOT NULL,
  uniqueid TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  PRIMARY KEY (node, uniqueid)
)
 WITHOUT ROWID;

INSERT INTO tombstone (node, uniqueid, created_ms)
SELECT node, uniqueid, created_ms FROM tombstone_before;

DROP TABLE tombstone_before;

ALTER TABLE event RENAME TO event_before;

CREATE TABLE event (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  at_ms BIGINT NOT NULL,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  data TEXT NOT NULL,
  PRIMARY KEY (id)
)
 WITHOUT ROWID;

CREATE INDEX event_subject ON event (tenant_id, subject);

INSERT INTO event (id, tenant_id, at_ms, kind, subject, data)
SELECT id, tenant_id, at_ms, kind, subject, data FROM event_before;

DROP TABLE event_before;

ALTER TABLE ledger RENAME TO ledger_before;

CREATE TABLE ledger (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  seller_id TEXT NOT NULL,
  amount_micros BIGINT NOT NULL,
  kind TEXT NOT NULL,
  idempotency_key TEXT NOT NULL,
  actor TEXT NOT NULL,
  reason TEXT NOT NULL,
  call_id TEXT,
  corrects_id TEXT,
  balance_after_micros BIGINT NOT NULL,
  created_ms BIGINT NOT NULL,
  PRIMARY KEY (id)
);

CREATE INDEX ledger_account ON ledger (seller_id, id);

INSERT INTO ledger (id, tenant_id, seller_id, amount_micros, kind, idempotency_key, actor, reason, call_id, corrects_id, balance_after_micros, created_ms)
SELECT id, tenant_id, seller_id, amount_micros, kind, idempotency_key, actor, reason, call_id, corrects_id, balance_after_micros, created_ms FROM ledger_before;

DROP TABLE ledger_before;

INSERT INTO ledger_key (tenant_id, idempotency_key, ledger_id)
SELECT tenant_id, idempotency_key, id FROM ledger WHERE kind <> 'call';

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
 WITH (fillfactor = 50);

CREATE TABLE rule_state (
  rule_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  cursor BIGINT NOT NULL,
  PRIMARY KEY (rule_id)
)
 WITH (fillfactor = 50);

CREATE TABLE recent_caller (
  campaign_id TEXT NOT NULL,
  caller TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  call_id TEXT NOT NULL,
  at_ms BIGINT NOT NULL,
  PRIMARY KEY (campaign_id, caller)
);

CREATE TABLE ledger_key (
  tenant_id TEXT NOT NULL,
  idempotency_key TEXT NOT NULL,
  ledger_id TEXT NOT NULL,
  PRIMARY KEY (tenant_id, idempotency_key)
);

CREATE TABLE estate_change (
  version BIGINT NOT NULL,
  kind TEXT NOT NULL,
  row_key TEXT NOT NULL,
  PRIMARY KEY (version, kind, row_key)
);

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

ALTER TABLE attempt ADD COLUMN round BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE attempt ADD COLUMN rate_id TEXT DEFAULT '' NOT NULL;

ALTER TABLE attempt ADD COLUMN tariff TEXT DEFAULT '' NOT NULL;

ALTER TABLE attempt ADD COLUMN payout TEXT DEFAULT '' NOT NULL;

UPDATE attempt SET round = number;

ALTER TABLE cap ADD COLUMN window_ms BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE cap DROP CONSTRAINT cap_key;

ALTER TABLE cap ADD CONSTRAINT cap_key UNIQUE (tenant_id, scope, scope_id, metric, window_kind, window_ms);

UPDATE place SET state = 'held' WHERE state <> 'released';

DROP INDEX place_open;

DROP INDEX hold_seller;

ALTER TABLE account SET (fillfactor = 50);

ALTER TABLE counter SET (fillfactor = 50);

DROP INDEX ledger_account;

ALTER TABLE ledger RENAME TO ledger_before;

ALTER INDEX ledger_pkey RENAME TO ledger_before_pkey;

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
)
 PARTITION BY RANGE (id);

CREATE INDEX ledger_account ON ledger (seller_id, id);

CREATE TABLE ledger_default PARTITION OF ledger DEFAULT;

INSERT INTO ledger (id, tenant_id, seller_id, amount_micros, kind, idempotency_key, actor, reason, call_id, corrects_id, balance_after_micros, created_ms)
SELECT id, tenant_id, seller_id, amount_micros, kind, idempotency_key, actor, reason, call_id, corrects_id, balance_after_micros, created_ms FROM ledger_before;

DROP TABLE ledger_before;

DROP INDEX cdr_channel;

DROP INDEX cdr_time;

DROP INDEX cdr_decided;

ALTER TABLE cdr RENAME TO cdr_before;

ALTER INDEX cdr_pkey RENAME TO cdr_before_pkey;

CREATE TABLE cdr (
  call_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  schema_version BIGINT NOT NULL,
  node TEXT NOT NULL,
  boot_id TEXT NOT NULL,
  uniqueid TEXT NOT NULL,
  linkedid TEXT NOT NULL,
  sip_call_id TEXT NOT NULL,
  did TEXT NOT NULL,
  did_id TEXT,
  caller TEXT NOT NULL,
  caller_e164 TEXT NOT NULL,
  caller_name TEXT NOT NULL,
  trunk TEXT NOT NULL,
  attestation TEXT NOT NULL,
  stir_verdict TEXT NOT NULL,
  seller_id TEXT,
  seller TEXT NOT NULL,
  campaign_id TEXT,
  campaign TEXT NOT NULL,
  rule_id TEXT,
  target_id TEXT,
  target TEXT NOT NULL,
  strategy TEXT NOT NULL,
  attempts BIGINT NOT NULL,
  arrived_ms BIGINT NOT NULL,
  decided_ms BIGINT NOT NULL,
  first_ring_ms BIGINT,
  answered_ms BIGINT,
  ended_ms BIGINT NOT NULL,
  decision_ms BIGINT NOT NULL,
  ring_ms BIGINT NOT NULL,
  talk_ms BIGINT NOT NULL,
  billed_seconds BIGINT NOT NULL,
  dialstatus TEXT NOT NULL,
  hangup_cause BIGINT NOT NULL,
  sip_code BIGINT NOT NULL,
  hung_up_by TEXT NOT NULL,
  reject_code TEXT NOT NULL,
  reject_reason TEXT NOT NULL,
  witness TEXT NOT NULL,
  currency TEXT NOT NULL,
  connect_fee_micros BIGINT NOT NULL,
  per_minute_micros BIGINT NOT NULL,
  first_s BIGINT NOT NULL,
  step_s BIGINT NOT NULL,
  billable_threshold_ms BIGINT NOT NULL,
  billable BOOLEAN NOT NULL,
  amount_micros BIGINT NOT NULL,
  written_off_micros BIGINT NOT NULL,
  balance_after_micros BIGINT,
  trace TEXT NOT NULL,
  attempt BIGINT DEFAULT 0 NOT NULL,
  then_after_s BIGINT DEFAULT 0 NOT NULL,
  then_per_minute_micros BIGINT DEFAULT 0 NOT NULL,
  payout_micros BIGINT DEFAULT 0 NOT NULL,
  payout_tariff TEXT DEFAULT '' NOT NULL,
  PRIMARY KEY (call_id)
)
 PARTITION BY RANGE (call_id);

CREATE INDEX cdr_channel ON cdr (node, uniqueid);

CREATE INDEX cdr_decided ON cdr (tenant_id, decided_ms);

CREATE INDEX cdr_time ON cdr (tenant_id, arrived_ms);

CREATE TABLE cdr_default PARTITION OF cdr DEFAULT;

INSERT INTO cdr (call_id, tenant_id, schema_version, node, boot_id, uniqueid, linkedid, sip_call_id, did, did_id, caller, caller_e164, caller_name, trunk, attestation, stir_verdict, seller_id, seller, campaign_id, campaign, rule_id, target_id, target, strategy, attempts, arrived_ms, decided_ms, first_ring_ms, answered_ms, ended_ms, decision_ms, ring_ms, talk_ms, billed_seconds, dialstatus, hangup_cause, sip_code, hung_up_by, reject_code, reject_reason, witness, currency, connect_fee_micros, per_minute_micros, first_s, step_s, billable_threshold_ms, billable, amount_micros, written_off_micros, balance_after_micros, trace, attempt, then_after_s, then_per_minute_micros, payout_micros, payout_tariff)
SELECT call_id, tenant_id, schema_version, node, boot_id, uniqueid, linkedid, sip_call_id, did, did_id, caller, caller_e164, caller_name, trunk, attestation, stir_verdict, seller_id, seller, campaign_id, campaign, rule_id, target_id, target, strategy, attempts, arrived_ms, decided_ms, first_ring_ms, answered_ms, ended_ms, decision_ms, ring_ms, talk_ms, billed_seconds, dialstatus, hangup_cause, sip_code, hung_up_by, reject_code, reject_reason, witness, currency, connect_fee_micros, per_minute_micros, first_s, step_s, billable_threshold_ms, billable, amount_micros, written_off_micros, balance_after_micros, trace, attempts, 0, 0, 0, '' FROM cdr_before;

DROP TABLE cdr_before;

DROP INDEX event_time;

ALTER TABLE event RENAME TO event_before;

ALTER INDEX event_pkey RENAME TO event_before_pkey;

CREATE TABLE event (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  at_ms BIGINT NOT NULL,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  data TEXT NOT NULL,
  PRIMARY KEY (id)
)
 PARTITION BY RANGE (id);

CREATE INDEX event_subject ON event (tenant_id, subject);

CREATE TABLE event_default PARTITION OF event DEFAULT;

INSERT INTO event (id, tenant_id, at_ms, kind, subject, data)
SELECT id, tenant_id, at_ms, kind, subject, data FROM event_before;

DROP TABLE event_before;

INSERT INTO ledger_key (tenant_id, idempotency_key, ledger_id)
SELECT tenant_id, idempotency_key, id FROM ledger WHERE kind <> 'call';

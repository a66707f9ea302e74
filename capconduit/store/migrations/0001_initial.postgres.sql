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
  PRIMARY KEY (call_id, number)
);

CREATE TABLE audit (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  at_ms BIGINT NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  subject TEXT NOT NULL,
  before TEXT NOT NULL,
  after TEXT NOT NULL,
  PRIMARY KEY (id)
);

CREATE INDEX audit_time ON audit (tenant_id, at_ms);

CREATE TABLE call (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  node TEXT NOT NULL,
  boot_id TEXT NOT NULL,
  uniqueid TEXT NOT NULL,
  linkedid TEXT NOT NULL,
  sip_call_id TEXT NOT NULL,
  channel TEXT NOT NULL,
  state TEXT NOT NULL,
  dnid TEXT NOT NULL,
  ani TEXT NOT NULL,
  ani_e164 TEXT NOT NULL,
  caller_name TEXT NOT NULL,
  trunk TEXT NOT NULL,
  attestation TEXT NOT NULL,
  stir_verdict TEXT NOT NULL,
  did_id TEXT NOT NULL,
  did_number TEXT NOT NULL,
  seller_id TEXT NOT NULL,
  campaign_id TEXT NOT NULL,
  rate_id TEXT NOT NULL,
  currency TEXT NOT NULL,
  connect_fee_micros BIGINT NOT NULL,
  per_minute_micros BIGINT NOT NULL,
  first_s BIGINT NOT NULL,
  step_s BIGINT NOT NULL,
  billable_threshold_ms BIGINT NOT NULL,
  strategy TEXT NOT NULL,
  attempt BIGINT NOT NULL,
  funded_s BIGINT NOT NULL,
  arrived_ms BIGINT NOT NULL,
  decided_ms BIGINT NOT NULL,
  answered_ms BIGINT,
  seen_ms BIGINT NOT NULL,
  lease_until_ms BIGINT NOT NULL,
  reject_reason TEXT NOT NULL,
  trace TEXT NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT call_channel UNIQUE (node, uniqueid)
);

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
  PRIMARY KEY (call_id)
);

CREATE INDEX cdr_channel ON cdr (node, uniqueid);

CREATE INDEX cdr_decided ON cdr (tenant_id, decided_ms);

CREATE INDEX cdr_time ON cdr (tenant_id, arrived_ms);

CREATE TABLE counter (
  tenant_id TEXT NOT NULL,
  cap_id TEXT NOT NULL,
  window_start_ms BIGINT NOT NULL,
  used BIGINT NOT NULL,
  in_flight BIGINT NOT NULL,
  base BIGINT NOT NULL,
  PRIMARY KEY (cap_id, window_start_ms)
);

CREATE TABLE estate_version (
  id BIGINT NOT NULL,
  version BIGINT NOT NULL,
  PRIMARY KEY (id)
);

CREATE TABLE event (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  at_ms BIGINT NOT NULL,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  data TEXT NOT NULL,
  PRIMARY KEY (id)
);

CREATE INDEX event_time ON event (tenant_id, at_ms);

CREATE TABLE hold (
  call_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  seller_id TEXT NOT NULL,
  amount_micros BIGINT NOT NULL,
  state TEXT NOT NULL,
  opened_ms BIGINT NOT NULL,
  expires_ms BIGINT NOT NULL,
  PRIMARY KEY (call_id)
);

CREATE INDEX hold_seller ON hold (seller_id, state);

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
  PRIMARY KEY (id),
  CONSTRAINT ledger_once UNIQUE (tenant_id, idempotency_key)
);

CREATE INDEX ledger_account ON ledger (seller_id, id);

CREATE TABLE node (
  name TEXT NOT NULL,
  boot_id TEXT NOT NULL,
  started_ms BIGINT NOT NULL,
  seen_ms BIGINT NOT NULL,
  asterisk_started_ms BIGINT,
  state TEXT NOT NULL,
  PRIMARY KEY (name)
);

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
);

CREATE INDEX place_open ON place (cap_id, state);

CREATE TABLE schema_migration (
  version BIGINT NOT NULL,
  name TEXT NOT NULL,
  applied_ms BIGINT NOT NULL,
  PRIMARY KEY (version)
);

CREATE TABLE tenant (
  id TEXT NOT NULL,
  name TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT tenant_name UNIQUE (name)
);

CREATE TABLE tombstone (
  node TEXT NOT NULL,
  uniqueid TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  PRIMARY KEY (node, uniqueid)
);

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
  PRIMARY KEY (id),
  CONSTRAINT cap_key UNIQUE (tenant_id, scope, scope_id, metric, window_kind),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

CREATE TABLE rate (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  name TEXT NOT NULL,
  currency TEXT NOT NULL,
  connect_fee_micros BIGINT NOT NULL,
  per_minute_micros BIGINT NOT NULL,
  first_s BIGINT NOT NULL,
  step_s BIGINT NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT rate_name UNIQUE (tenant_id, name),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

CREATE TABLE seller (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  name TEXT NOT NULL,
  currency TEXT NOT NULL,
  timezone TEXT NOT NULL,
  status TEXT NOT NULL,
  low_balance_micros BIGINT NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT seller_name UNIQUE (tenant_id, name),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

CREATE TABLE setting (
  tenant_id TEXT NOT NULL,
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  updated_ms BIGINT NOT NULL,
  PRIMARY KEY (tenant_id, name),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

CREATE TABLE target (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  address TEXT NOT NULL,
  ring_ms BIGINT NOT NULL,
  enabled BOOLEAN NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT target_name UNIQUE (tenant_id, name),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

CREATE TABLE trunk (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  hosts TEXT NOT NULL,
  port BIGINT NOT NULL,
  codecs TEXT NOT NULL,
  region TEXT NOT NULL,
  auth_username TEXT NOT NULL,
  auth_secret_ref TEXT NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT trunk_name UNIQUE (tenant_id, name),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

CREATE TABLE users (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  name TEXT NOT NULL,
  role TEXT NOT NULL,
  status TEXT NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT users_name UNIQUE (tenant_id, name),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

CREATE TABLE account (
  seller_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  balance_micros BIGINT NOT NULL,
  held_micros BIGINT NOT NULL,
  credit_limit_micros BIGINT NOT NULL,
  PRIMARY KEY (seller_id),
  FOREIGN KEY(seller_id) REFERENCES seller (id),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

CREATE TABLE campaign (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  name TEXT NOT NULL,
  seller_id TEXT NOT NULL,
  rate_id TEXT NOT NULL,
  status TEXT NOT NULL,
  strategy TEXT NOT NULL,
  billable_threshold_ms BIGINT NOT NULL,
  max_attempts BIGINT NOT NULL,
  ring_budget_ms BIGINT NOT NULL,
  max_duration_ms BIGINT NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT campaign_name UNIQUE (tenant_id, name),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id),
  FOREIGN KEY(seller_id) REFERENCES seller (id),
  FOREIGN KEY(rate_id) REFERENCES rate (id)
);

CREATE TABLE did (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  number TEXT NOT NULL,
  trunk_id TEXT,
  seller_id TEXT,
  campaign_id TEXT,
  status TEXT NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT did_number UNIQUE (number),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id),
  FOREIGN KEY(trunk_id) REFERENCES trunk (id),
  FOREIGN KEY(seller_id) REFERENCES seller (id),
  FOREIGN KEY(campaign_id) REFERENCES campaign (id)
);

CREATE TABLE rule (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  campaign_id TEXT NOT NULL,
  target_id TEXT NOT NULL,
  priority BIGINT NOT NULL,
  weight BIGINT NOT NULL,
  enabled BOOLEAN NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT rule_pair UNIQUE (campaign_id, target_id),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id),
  FOREIGN KEY(campaign_id) REFERENCES campaign (id),
  FOREIGN KEY(target_id) REFERENCES target (id)
);

CREATE TABLE provider (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  base_url TEXT NOT NULL,
  key_ref TEXT NOT NULL,
  model TEXT NOT NULL,
  text_model TEXT NOT NULL,
  voice TEXT NOT NULL,
  deployment TEXT NOT NULL,
  api_version TEXT NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT provider_name UNIQUE (tenant_id, name),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

CREATE TABLE agent (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  name TEXT NOT NULL,
  provider_ids TEXT NOT NULL,
  voice TEXT NOT NULL,
  language TEXT NOT NULL,
  instructions TEXT NOT NULL,
  greeting TEXT NOT NULL,
  tools TEXT NOT NULL,
  max_duration_ms BIGINT NOT NULL,
  max_cost_micros BIGINT NOT NULL,
  silence_ms BIGINT NOT NULL,
  transcripts BOOLEAN NOT NULL,
  retention_days BIGINT NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT agent_name UNIQUE (tenant_id, name),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

ALTER TABLE target ADD COLUMN agent_id TEXT REFERENCES agent (id);

ALTER TABLE estate_version ADD COLUMN feeding BOOLEAN DEFAULT false NOT NULL;

CREATE TABLE webhook (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  name TEXT NOT NULL,
  kind TEXT NOT NULL,
  address TEXT NOT NULL,
  kinds TEXT NOT NULL,
  secrets TEXT NOT NULL,
  status TEXT NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT webhook_name UNIQUE (tenant_id, name),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

CREATE TABLE notification_rule (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  updated_ms BIGINT NOT NULL,
  name TEXT NOT NULL,
  user_name TEXT NOT NULL,
  kinds TEXT NOT NULL,
  channel TEXT NOT NULL,
  address TEXT NOT NULL,
  secrets TEXT NOT NULL,
  seller_id TEXT NOT NULL,
  PRIMARY KEY (id),
  CONSTRAINT notification_rule_name UNIQUE (tenant_id, name),
  FOREIGN KEY(tenant_id) REFERENCES tenant (id)
);

CREATE TABLE notification (
  id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  at_ms BIGINT NOT NULL,
  user_name TEXT NOT NULL,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  occasion TEXT NOT NULL,
  text TEXT NOT NULL,
  data TEXT NOT NULL,
  read_ms BIGINT,
  PRIMARY KEY (id)
);

CREATE INDEX notification_user ON notification (tenant_id, user_name, at_ms);

CREATE TABLE notification_mark (
  tenant_id TEXT NOT NULL,
  user_name TEXT NOT NULL,
  occasion TEXT NOT NULL,
  told_ms BIGINT NOT NULL,
  until_ms BIGINT NOT NULL,
  PRIMARY KEY (tenant_id, user_name, occasion)
)
 WITHOUT ROWID;

CREATE TABLE outbox (
  event_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  position BIGINT NOT NULL,
  PRIMARY KEY (event_id)
)
 WITHOUT ROWID;

CREATE INDEX outbox_position ON outbox (position, event_id);

CREATE TABLE lane (
  receiver_id TEXT NOT NULL,
  lane TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  due_ms BIGINT NOT NULL,
  owner TEXT NOT NULL,
  tries BIGINT NOT NULL,
  state TEXT NOT NULL,
  error TEXT NOT NULL,
  PRIMARY KEY (receiver_id, lane)
)
 WITHOUT ROWID;

CREATE INDEX lane_due ON lane (receiver_id, state, due_ms);

CREATE TABLE delivery (
  receiver_id TEXT NOT NULL,
  event_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  lane TEXT NOT NULL,
  position BIGINT NOT NULL,
  kind TEXT NOT NULL,
  state TEXT NOT NULL,
  tries BIGINT NOT NULL,
  made_ms BIGINT NOT NULL,
  done_ms BIGINT,
  answer TEXT NOT NULL,
  PRIMARY KEY (receiver_id, event_id)
)
 WITHOUT ROWID;

CREATE INDEX delivery_lane ON delivery (receiver_id, state, lane, position);

CREATE INDEX delivery_made ON delivery (tenant_id, made_ms);

CREATE TABLE rollup (
  tenant_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  grain TEXT NOT NULL,
  bucket_ms BIGINT NOT NULL,
  seller_id TEXT NOT NULL,
  campaign_id TEXT NOT NULL,
  subject TEXT NOT NULL,
  currency TEXT NOT NULL,
  reject_reason TEXT NOT NULL,
  calls BIGINT NOT NULL,
  attempted BIGINT NOT NULL,
  connected BIGINT NOT NULL,
  billable BIGINT NOT NULL,
  rang BIGINT NOT NULL,
  pdd_ms BIGINT NOT NULL,
  talk_ms BIGINT NOT NULL,
  billed_s BIGINT NOT NULL,
  amount_micros BIGINT NOT NULL,
  payout_micros BIGINT NOT NULL,
  written_off_micros BIGINT NOT NULL,
  PRIMARY KEY (tenant_id, kind, grain, bucket_ms, seller_id, campaign_id, subject, currency, reject_reason)
);

CREATE TABLE rollup_name (
  tenant_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  id TEXT NOT NULL,
  name TEXT NOT NULL,
  PRIMARY KEY (tenant_id, kind, id)
);

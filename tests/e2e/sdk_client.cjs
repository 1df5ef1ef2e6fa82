// Sends spans with the OpenTelemetry SDK for JavaScript and prints their ids.
// Usage: node sdk_client.cjs http|proto none|gzip URL COUNT
"use strict";

const { DiagConsoleLogger, DiagLogLevel, SpanKind, SpanStatusCode, diag } = require("@opentelemetry/api");
const { resourceFromAttributes } = require("@opentelemetry/resources");
const { BatchSpanProcessor, NodeTracerProvider } = require("@opentelemetry/sdk-trace-node");

const [protocol, compression, url, count] = process.argv.slice(2);
const { OTLPTraceExporter } = require(`@opentelemetry/exporter-trace-otlp-${protocol}`);

async function main() {
  diag.setLogger(new DiagConsoleLogger(), DiagLogLevel.WARN);
  const exporter = new OTLPTraceExporter({ url, compression });
  const provider = new NodeTracerProvider({
    resource: resourceFromAttributes({ "service.name": "frontend" }),
    spanProcessors: [new BatchSpanProcessor(exporter, { maxQueueSize: 100_000 })],
  });
  const tracer = provider.getTracer("test");
  const sent = [];
  for (let i = 0; i < Number(count); i++) {
    const span = tracer.startSpan("POST /api/checkout", { kind: SpanKind.SERVER });
    span.setAttribute("app.order.id", `o${i}`);
    span.setStatus({ code: SpanStatusCode.ERROR, message: "declined" });
    span.end();
    const { traceId, spanId } = span.spanContext();
    sent.push([traceId, spanId]);
  }
  await provider.forceFlush();
  await provider.shutdown();
  process.stdout.write(JSON.stringify(sent));
}

main();

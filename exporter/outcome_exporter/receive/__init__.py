"""What listens: OTLP over gRPC and HTTP, and CloudEvents over HTTP."""

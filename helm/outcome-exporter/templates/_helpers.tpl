{{- define "outcome-exporter.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "outcome-exporter.selector" -}}
app.kubernetes.io/name: outcome-exporter
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "outcome-exporter.labels" -}}
{{ include "outcome-exporter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "outcome-exporter.image" -}}
{{- $registry := .Values.global.imageRegistry | empty | ternary "" (printf "%s/" .Values.global.imageRegistry) -}}
{{- if .Values.image.digest -}}
{{- printf "%s%s@%s" $registry .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s%s:%s" $registry .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "outcome-exporter.serviceAccount" -}}
{{- default (include "outcome-exporter.name" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "outcome-exporter.configMap" -}}
{{- default (printf "%s-config" (include "outcome-exporter.name" .)) .Values.existingConfigMap -}}
{{- end -}}

{{/* Journeys and limits are the user's; addresses and places are the pod's. */}}
{{- define "outcome-exporter.config" -}}
{{- $places := dict
  "receivers" (dict "otlp" (dict
    "grpc" (dict "listen" (printf "%s:%v" .Values.listenHost .Values.ports.grpc))
    "http" (dict "listen" (printf "%s:%v" .Values.listenHost .Values.ports.http))))
  "metrics" (dict "listen" (printf "%s:%v" .Values.listenHost .Values.ports.metrics))
  "storage" (dict "path" "/var/lib/outcome-exporter")
-}}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) $places) -}}
{{- end -}}

{{/* Of the metrics port: the configuration's; of one that exists, what the values say. */}}
{{- define "outcome-exporter.scheme" -}}
{{- if dig "metrics" "tls" "" .Values.config -}}https{{- else -}}{{ default "http" .Values.serviceMonitor.scheme }}{{- end -}}
{{- end -}}

{{/* Of a receiver, `grpc` or `http`: http or https. What is an address alone is refused below. */}}
{{- define "outcome-exporter.receiverScheme" -}}
{{- $values := index . 0 -}}
{{- $listener := dig "receivers" "otlp" (index . 1) dict $values.config -}}
{{- and (kindIs "map" $listener) (get $listener "tls") | empty | ternary "http" "https" -}}
{{- end -}}

{{/* What cannot work is refused here, in words. */}}
{{- define "outcome-exporter.validate" -}}
{{- $otlp := dig "receivers" "otlp" dict .Values.config -}}
{{- $metrics := dig "metrics" dict .Values.config -}}
{{- range list (get $otlp "grpc") (get $otlp "http") $metrics -}}
{{- if or (and . (kindIs "string" .)) (and (kindIs "map" .) (hasKey . "listen")) -}}
{{- fail "config: the chart sets the addresses (receivers.otlp.grpc, receivers.otlp.http, metrics.listen); remove them and set ports.grpc, ports.http and ports.metrics" -}}
{{- end -}}
{{- end -}}
{{- if dig "tls" "client_ca" "" $metrics -}}
{{- fail "config.metrics.tls.client_ca: the kubelet's probes have no client certificate, so the pod would never be ready; remove it and use config.metrics.tokens" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (dig "tokens" list $metrics) (not .Values.serviceMonitor.bearerTokenSecret.name) -}}
{{- fail "serviceMonitor.bearerTokenSecret: config.metrics.tokens asks for a token, and Prometheus has none; name its secret and key" -}}
{{- end -}}
{{- if and .Values.podMonitor.enabled (dig "tokens" list $metrics) -}}
{{- fail "podMonitor: config.metrics.tokens asks for a token, and a PodMonitor has none; use serviceMonitor with bearerTokenSecret" -}}
{{- end -}}
{{- if dig "storage" "path" "" .Values.config -}}
{{- fail "config.storage.path: the chart sets it to its volume; remove it" -}}
{{- end -}}
{{- if and .Values.existingConfigMap (or .Values.config.journeys .Values.config.slos) -}}
{{- fail "existingConfigMap and journeys or SLOs of config are both given; keep one of them" -}}
{{- end -}}
{{- if and .Values.existingConfigMap (eq .Values.configReload "checksum") -}}
{{- fail "configReload: checksum does not see a change of existingConfigMap; use watch" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled -}}
{{- fail "serviceMonitor and podMonitor are both enabled: every series would be scraped twice; keep one of them" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.host: an Ingress without a host would take /events of every host; name one" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: a route belongs to a gateway; name one" -}}
{{- end -}}
{{- if and .Values.certManager.enabled (not .Values.certManager.issuerRef.name) -}}
{{- fail "certManager.issuerRef.name: a certificate needs an issuer; name one" -}}
{{- end -}}
{{- if and .Values.persistence.existingClaim (not .Values.persistence.enabled) -}}
{{- fail "persistence.existingClaim is given but persistence.enabled is false; enable it" -}}
{{- end -}}
{{- end -}}

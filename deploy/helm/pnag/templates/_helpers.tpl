{{/* Names and labels. */}}
{{- define "pnag.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "pnag.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pnag.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "pnag.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/* Everything a container needs not. */}}
{{- define "pnag.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "pnag.keysSecret" -}}
{{- .Values.apiKeys.existingSecret | default (printf "%s-api-keys" (include "pnag.name" .)) -}}
{{- end }}

{{- define "pnag.redisSecret" -}}
{{- .Values.redis.bundled.existingSecret | default (printf "%s-redis" (include "pnag.name" .)) -}}
{{- end }}

{{/* What the schema cannot say: values that need each other. */}}
{{- define "pnag.check" -}}
{{- $keys := .Values.apiKeys -}}
{{- if and (not $keys.anonymous) (not $keys.existingSecret) (not $keys.lines) -}}
{{- fail "nobody could ask: set apiKeys.existingSecret, or apiKeys.lines, or apiKeys.anonymous=true to let anybody ask" -}}
{{- end -}}
{{- if and $keys.anonymous (or $keys.existingSecret $keys.lines) -}}
{{- fail "apiKeys.anonymous=true and API keys: choose one" -}}
{{- end -}}
{{- if and (eq .Values.bundles.source "claim") (not .Values.bundles.claim.existingClaim) -}}
{{- fail "bundles.source=claim needs bundles.claim.existingClaim" -}}
{{- end -}}
{{- if and (eq .Values.bundles.source "init") (not .Values.bundles.init.image) -}}
{{- fail "bundles.source=init needs bundles.init.image" -}}
{{- end -}}
{{- if and (eq .Values.redis.mode "external") (not .Values.redis.external.existingSecret) -}}
{{- fail "redis.mode=external needs redis.external.existingSecret" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) -}}
{{- fail "autoscaling.maxReplicas is below autoscaling.minReplicas" -}}
{{- end -}}
{{- range $name := list "PNAG_HOST" "PNAG_PORT" "PNAG_ADMIN_PORT" "PNAG_BUNDLES" "PNAG_DEFAULT_BUNDLE" "PNAG_API_KEYS" "PNAG_API_KEYS_FILE" "PNAG_ALLOW_ANONYMOUS" "PNAG_REDIS_URL" "PNAG_DRAIN_S" "PNAG_GRACE_S" -}}
{{- if hasKey $.Values.settings $name -}}{{- fail (printf "settings.%s: the chart sets it; there is a value for it" $name) -}}{{- end -}}
{{- end -}}
{{- end }}

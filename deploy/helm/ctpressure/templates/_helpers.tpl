{{- define "ctpressure.name" -}}
{{- if contains "ctpressure" .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}{{ else }}{{ printf "%s-ctpressure" .Release.Name | trunc 63 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "ctpressure.selector" -}}
app.kubernetes.io/name: ctpressure
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ctpressure.labels" -}}
{{ include "ctpressure.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "ctpressure.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

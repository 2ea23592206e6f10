{{- define "ctpressure.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $whole := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $whole .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "ctpressure.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "ctpressure.fullname" .) .Values.serviceAccount.name }}{{ else }}{{ required "serviceAccount.name, of the account that is there" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- /* Not of nameOverride: a DaemonSet's selector can't be changed, and rules find the agents by their job's name. */}}
{{- define "ctpressure.selector" -}}
app.kubernetes.io/name: ctpressure
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ctpressure.labels" -}}
{{ include "ctpressure.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "ctpressure.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* Servers before 1.30 know AppArmor by an annotation only. */}}
{{- define "ctpressure.hasAppArmorField" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version }}true{{ end }}
{{- end }}

{{- /* What a PodMonitor and a ServiceMonitor have in common: the endpoint, of the values of one of them. */}}
{{- define "ctpressure.endpoint" -}}
- port: metrics
  path: /metrics
  interval: {{ .interval }}
  {{- with .scrapeTimeout }}
  scrapeTimeout: {{ . }}
  {{- end }}
  {{- with .endpoint }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  # namespace and pod say whose a count is, not where the agent runs.
  honorLabels: true
  relabelings:
    - action: labeldrop
      regex: namespace|pod|container|endpoint|service
    - sourceLabels: [__meta_kubernetes_pod_node_name]
      targetLabel: node
    - sourceLabels: [__meta_kubernetes_pod_node_name]
      targetLabel: instance
    {{- with .relabelings }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- /* A file that is copied into the chart when it is packed. */}}
{{- define "ctpressure.file" -}}
{{- $found := .context.Files.Get (printf "files/%s" .file) }}
{{- required (printf "this chart has no files/%s: take one that `cargo xtask chart` packed" .file) $found }}
{{- end }}

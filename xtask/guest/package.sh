# The packages in a Debian of their own, whose systemd is the first process: installed, started, watched, upgraded, removed, purged; then the
# rpm. /packages has old.deb, new.deb, old.rpm, new.rpm. Ends with a failure as soon as something is not as it should be.
set -eu

on_failure() {
    systemctl status ctpressure --no-pager
    journalctl -u ctpressure --no-pager | tail -n 40
    systemctl --failed --no-pager
}
unit=ctpressure.service
shown() { systemctl show "$unit" --property="$1" --value; }
is() { [ "$(shown "$1")" = "$2" ]; }
says() { shown StatusText | grep -q "$1"; }
programs() { bpftool prog list | grep -c tracing || true; }
none() { [ "$(programs)" = 0 ]; }
# logged PRIORITY WORDS: it is found by who asks for this priority and worse
logged() { journalctl -u "$unit" -p "$1" --no-pager | grep -q "$2"; }
# drop_in LINE...: in the unit's [Service] from its next start on
drop_in() {
    mkdir -p "/run/systemd/system/$unit.d"
    printf '%s\n' '[Service]' "$@" >"/run/systemd/system/$unit.d/trial.conf"
    systemctl daemon-reload
}
no_drop_in() {
    rm -r "/run/systemd/system/$unit.d"
    systemctl daemon-reload
}

step "$(. /etc/os-release && echo "$PRETTY_NAME"), $(systemctl --version | head -n 1), dpkg $(dpkg-query -W -f '${Version}' dpkg)"
wait_for 120 'systemd' test -S /run/systemd/private
# No terminal is waited on, and nobody logs in.
systemctl mask --quiet --runtime getty.target systemd-logind.service
systemctl start multi-user.target
systemctl is-active sysinit.target multi-user.target systemd-journald.service
grep -qw nf_conntrack /proc/modules && fail 'conntrack is loaded, and the agent should wait for it'

step 'dpkg --install'
dpkg --info /packages/old.deb
dpkg --install /packages/old.deb
[ "$(dpkg-query -W -f '${Status}' ctpressure)" = 'install ok installed' ] || fail 'it is not installed'
systemctl is-enabled "$unit" || fail 'it is not enabled'
systemctl is-active "$unit" || fail 'it is not started'
is Type notify || fail 'no readiness'
says '^waits: ' || fail "no word of waiting: $(shown StatusText)"
shown StatusText
ctpressure --version

step 'conntrack is loaded, and the agent goes on'
modprobe nf_conntrack
nft -f - <<END
table ip trial {
    chain out {
        type filter hook output priority 0
        ct state new counter
    }
}
END
wait_for 120 'it sees the table' says '^host '
bash -c 'for port in $(seq 9001 9040); do echo >/dev/udp/127.0.0.1/$port; done' 2>/dev/null
counted() { ctpressure top --once -o json | grep -q '"entries":4[0-9]'; }
wait_for 60 'it counts 40 connections' counted
shown StatusText
[ "$(programs)" -gt 0 ] || fail 'no program of it is in the kernel'
says 'not all is seen' && fail "the unit takes something that the agent needs: $(shown StatusText)"
wait_for 60 'ready' ctpressure health --ready
ctpressure report --since -1m | head -n 3

step 'what it can reach'
systemd-analyze security --no-pager "$unit" | tail -n 1
systemd-analyze security --threshold=50 --no-pager "$unit" >/dev/null || fail 'more than 5.0'

step 'what the doctor tells node-problem-detector'
status=0
ctpressure doctor --npd >/tmp/answer || status=$?
printf '%s, exit status %s\n' "$(cat /tmp/answer)" "$status"
[ "$(wc -l </tmp/answer)" = 1 ] && [ "$status" -le 1 ] || fail 'that is no answer'
status=0
unshare --mount sh -c 'mount -t tmpfs none /proc/sys && ctpressure doctor --npd' >/tmp/answer || status=$?
printf '%s, exit status %s\n' "$(cut -c1-150 /tmp/answer)" "$status"
[ "$(wc -l </tmp/answer)" = 1 ] && [ "$status" = 2 ] || fail 'who can not look can not tell'

step 'priorities in the journal'
logged info 'ctpressure begins' || fail 'what it says is not in the journal'
logged warning 'ctpressure begins' && fail 'what is no warning has the priority of one'
drop_in 'SystemCallFilter=~bpf'
systemctl restart "$unit"
wait_for 60 'it says that it attaches nothing' logged err 'nothing is attached'
says 'not all is seen' || fail "$(shown StatusText)"
drop_in 'Environment=CTPRESSURE_LISTEN=192.0.2.1:1' 'Restart=no'
systemctl restart "$unit" && fail 'it should not start'
logged err 'ctpressure: error: ' || fail 'why it does not start is no error in the journal'
journalctl -u "$unit" -p warning -o cat --no-pager | cut -c1-150
no_drop_in
systemctl restart "$unit"

step 'the watchdog'
drop_in 'WatchdogSec=10' 'TimeoutAbortSec=5' 'RestartSec=1'
systemctl restart "$unit"
sleep 25
is NRestarts 0 || fail 'one that lives was ended'
kill -STOP "$(shown MainPID)"
restarted() { is NRestarts 1 && is ActiveState active; }
wait_for 90 'one that hangs is started again' restarted
journalctl -u "$unit" -o cat --no-pager | grep -i watchdog | tail -n 2
no_drop_in
systemctl restart "$unit"

step 'the limit controller, by its drop-in'
install -D -m 644 /usr/share/doc/ctpressure/limit-controller.conf "/etc/systemd/system/$unit.d/limit-controller.conf"
systemctl daemon-reload
systemctl restart "$unit"
wait_for 60 'ready' ctpressure health --ready
before=$(cat /proc/sys/net/netfilter/nf_conntrack_max)
ctpressure limit set $((before + 1000)) | head -n 2
[ "$(cat /proc/sys/net/netfilter/nf_conntrack_max)" = $((before + 1000)) ] || fail 'the agent can not set the limit'
rm -r "/etc/systemd/system/$unit.d"
systemctl daemon-reload
systemctl restart "$unit"
main=$(shown MainPID)
nsenter --target "$main" --mount sh -c 'echo 1 >/proc/sys/net/netfilter/nf_conntrack_max' 2>/dev/null && fail 'without it /proc/sys can be written'

step 'man pages and completions'
for page in ctpressure ctpressure-run ctpressure-limit-set; do
    man --warnings -l "/usr/share/man/man8/$page.8.gz" >/tmp/page 2>/tmp/warnings || fail "man $page"
    [ -s /tmp/warnings ] && fail "$page: $(cat /tmp/warnings)"
    grep -A 2 EXAMPLES /tmp/page || fail "$page has no examples"
done
ls /usr/share/man/man8/ctpressure*
bash -c '. /usr/share/bash-completion/completions/ctpressure
    COMP_WORDS=(ctpressure wat) COMP_CWORD=1
    _ctpressure ctpressure wat ctpressure
    [ "${COMPREPLY[*]}" = watch ]' || fail 'bash does not complete'
fish -c 'complete -C "ctpressure wat"' | grep '^watch' || fail 'fish does not complete'
zsh -c 'autoload -U compinit && compinit -u -d /tmp/zcompdump && [ "$_comps[ctpressure]" = _ctpressure ] && autoload +X _ctpressure' ||
    fail 'zsh does not complete'

step 'an upgrade'
echo 'CTPRESSURE_JOURNAL_KEEP=12h' >>/etc/default/ctpressure
before=$(shown MainPID)
dpkg --install /packages/new.deb
dpkg-query -W ctpressure
is ActiveState active || fail 'it does not run'
[ "$(shown MainPID)" != "$before" ] || fail 'the old one runs on'
grep -q 'KEEP=12h' /etc/default/ctpressure || fail 'settings are lost'
wait_for 60 'it goes on' says '^host '
systemctl stop "$unit"
wait_for 60 'nothing left in the kernel' none
is Result success || fail 'a bad end'
dpkg --install /packages/new.deb
is ActiveState inactive || fail 'what an administrator stopped was started'
systemctl start "$unit"

step 'dpkg --remove, dpkg --purge'
dpkg --remove ctpressure
systemctl is-active "$unit" && fail 'it still runs'
wait_for 60 'nothing left in the kernel' none
[ -e /var/lib/ctpressure/journal.db ] && [ -e /etc/default/ctpressure ] || fail 'only a purge takes journal and settings'
dpkg --purge ctpressure
left=$(find / -xdev -iname '*ctpressure*' -not -path '/proc/*' -not -path '/sys/*' -not -path '/packages/*' -not -path '/run/log/*')
[ -z "$left" ] || fail "left: $left"
[ -z "$(systemctl --failed --quiet --no-legend | grep ctpressure)" ] || fail 'a unit that failed stays'

step "the rpm: $(rpm --version)"
rpm -K --nosignature /packages/old.rpm || fail 'its digests are wrong'
rpm -qip /packages/old.rpm
rpm -qlvp /packages/old.rpm
# This system's rpm knows no package, so that it finds no requirement met, and Debian's wants to be told that this is meant.
mine="--nodeps $(rpm --force-debian --version >/dev/null 2>&1 && echo --force-debian || true)"
mkdir -p /var/lib/rpm
rpm --install $mine /packages/old.rpm
rpm --verify --nodeps ctpressure || fail 'what is installed is not what was packed'
systemctl is-active "$unit" && fail 'on such a system nothing is started by itself'
systemctl enable --now "$unit"
wait_for 60 'it sees the table' says '^host '
echo 'CTPRESSURE_JOURNAL_KEEP=12h' >>/etc/default/ctpressure
before=$(shown MainPID)
rpm --upgrade $mine /packages/new.rpm
rpm -q ctpressure
is ActiveState active || fail 'it does not run'
[ "$(shown MainPID)" != "$before" ] || fail 'the old one runs on'
grep -q 'KEEP=12h' /etc/default/ctpressure || fail 'settings are lost'
rpm --erase $mine ctpressure
systemctl is-active "$unit" && fail 'it still runs'
wait_for 60 'nothing left in the kernel' none
[ ! -e /usr/bin/ctpressure ] || fail 'the program stays'
step 'all of it as it should be'

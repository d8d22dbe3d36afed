# SPDX-License-Identifier: BSD-2-Clause
# bash completion for rlmctl(1)

_rlmctl() {
	local commands='status connections stats groups domains events demote promote move top'
	local options='--socket --json --follow --interval --timeout --unannounced --version --help'
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command='' socket=() i

	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		-s | --socket) socket=(--socket "${COMP_WORDS[++i]}") ;;
		-i | --interval | -t | --timeout) i=$((i + 1)) ;;
		-*) ;;
		*) command=${command:-${COMP_WORDS[i]}} ;;
		esac
	done
	case $before in
	-s | --socket)
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
		return
		;;
	-i | --interval | -t | --timeout) return ;;
	esac
	if [[ $word == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
	elif [ -z "$command" ]; then
		mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$word")
	elif [ "$command" = demote ] || [ "$command" = promote ]; then
		mapfile -t COMPREPLY < <(compgen -W "all $(rlmctl "${socket[@]}" stats 2>/dev/null | awk '$1 ~ /^[0-9]+$/ { print $1 }')" -- "$word")
	elif [ "$command" = move ] && [ "$before" = move ]; then
		mapfile -t COMPREPLY < <(compgen -W "$(rlmctl "${socket[@]}" domains 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$word")
	elif [ "$command" = move ]; then
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
	fi
}
complete -F _rlmctl rlmctl

%% SPDX-License-Identifier: BSD-2-Clause
%% An echo server that receives, or is sent messages by its sockets, and clients that check every byte and the end of the stream.
%%
%%   erl -run echo server passive|active PORT      erl -run echo client ADDRESS PORT
-module(echo).
-export([server/1, client/1]).

-define(CONNECTIONS, 8).
-define(BYTES, 16000000).

server([Kind, Port]) ->
    %% With exit_on_close the end of what is received drops what is still to be sent.
    {ok, Listener} = gen_tcp:listen(list_to_integer(Port), [binary, {active, false}, {exit_on_close, false}, {reuseaddr, true}, {backlog, 50}]),
    accept(Listener, Kind).

accept(Listener, Kind) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Pid = spawn(fun() -> receive go -> serve(Kind, Socket) end end),
    ok = gen_tcp:controlling_process(Socket, Pid),
    Pid ! go,
    accept(Listener, Kind).

serve("passive", Socket) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, Data} ->
            ok = gen_tcp:send(Socket, Data),
            serve("passive", Socket);
        {error, closed} ->
            gen_tcp:close(Socket)
    end;
serve("active", Socket) ->
    inet:setopts(Socket, [{active, once}]),
    receive
        {tcp, Socket, Data} ->
            ok = gen_tcp:send(Socket, Data),
            serve("active", Socket);
        {tcp_closed, Socket} ->
            gen_tcp:close(Socket)
    end.

client([Address, Port]) ->
    Self = self(),
    Start = erlang:monotonic_time(millisecond),
    [spawn(fun() -> Self ! one(Address, list_to_integer(Port), N) end) || N <- lists:seq(1, ?CONNECTIONS)],
    [receive
         right -> right;
         Wrong -> io:format("~p~n", [Wrong]), halt(1)
     end || _ <- lists:seq(1, ?CONNECTIONS)],
    Ms = max(1, erlang:monotonic_time(millisecond) - Start),
    io:format("~B MB/s right~n", [2 * ?CONNECTIONS * ?BYTES div (1000 * Ms)]),
    halt(0).

one(Address, Port, Number) ->
    rand:seed(exsss, {Number, 1, 2}),
    Data = rand:bytes(?BYTES),
    {ok, Socket} = gen_tcp:connect(Address, Port, [binary, {active, false}]),
    spawn_link(fun() -> send(Socket, Data) end),
    compare(Socket, Data).

send(Socket, <<>>) ->
    gen_tcp:shutdown(Socket, write);
send(Socket, Data) ->
    N = min(byte_size(Data), rand:uniform(1 bsl rand:uniform(17))),
    <<Now:N/binary, Rest/binary>> = Data,
    ok = gen_tcp:send(Socket, Now),
    send(Socket, Rest).

compare(Socket, Want) ->
    case {gen_tcp:recv(Socket, 0), Want} of
        {{error, closed}, <<>>} ->
            right;
        {{ok, Got}, _} ->
            N = byte_size(Got),
            case Want of
                <<Got:N/binary, Rest/binary>> -> compare(Socket, Rest);
                _ -> {wrong_bytes, byte_size(Want)}
            end;
        {Wrong, _} ->
            {Wrong, byte_size(Want)}
    end.
